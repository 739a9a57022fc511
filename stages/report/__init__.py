"""Comparison of variants: the selection, the pictures, the HTML report and the model card. No TensorFlow."""
