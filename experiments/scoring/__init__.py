"""Protocols of scoring: YAML alone."""
