"""Hydra configuration: YAML alone."""
