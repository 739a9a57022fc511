"""Weights of published networks and of your own."""
