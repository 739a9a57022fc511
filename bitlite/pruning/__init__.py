"""Weights to zero, channels and units away for real, norms to constants; and recovery, the training that follows."""
