"""A BiT to .tflite files."""
