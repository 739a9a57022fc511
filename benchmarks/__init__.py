"""Measurements, run as `python -m benchmarks.NAME`, and hub, the network that they compare with."""
