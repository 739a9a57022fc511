"""Shared by all stages: params.yaml, paths, files, metrics, errors."""
