"""Operators of .tflite files, by their names in TFLite's schema."""

# Those that have a kernel: their inputs are the image, the kernel and the bias.
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
