"""BiT-HyperRule, and training."""
