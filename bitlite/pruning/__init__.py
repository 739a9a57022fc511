"""Pruning, and recovery from it."""
