"""What the workflow is worth and what it costs; `python -m benchmarks.NAME` from the top of the project."""
