"""BiT-HyperRule, the one loop for pretraining, fine-tuning and recovery, and the metrics of a model."""
