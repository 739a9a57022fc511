"""Where the time of a file goes, and on what machine."""
