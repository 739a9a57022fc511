"""What every stage shares: params.yaml, paths, files, metrics, errors."""
