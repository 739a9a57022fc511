"""Data sets: `sources` finds labelled images, `dataset` is the prepared directory that every stage reads."""
