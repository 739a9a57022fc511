"""Weights to zero, or channels and units away for real; and recovery, the training that follows."""
