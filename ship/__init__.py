"""What uses the files that the workflow makes: classify pictures, try them in a browser, time them on a phone or a
board."""
