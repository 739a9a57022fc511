"""Running a .tflite file, and looking into it."""
