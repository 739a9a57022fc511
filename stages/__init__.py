"""The workflow: one module a stage, run as `python -m stages.NAME` by dvc.yaml."""
