"""Labelled images, wherever they come from."""
