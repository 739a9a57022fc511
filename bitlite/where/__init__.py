"""Trying a .tflite file in the places where devices run it."""
