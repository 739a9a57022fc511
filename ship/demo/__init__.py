"""A web page to try a .tflite file, and its server."""
