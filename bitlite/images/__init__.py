"""The prepared data set."""
