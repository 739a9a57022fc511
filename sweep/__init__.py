"""Sweeps and searches over many hosts: each point a DVC experiment, run as a task of Ray."""
