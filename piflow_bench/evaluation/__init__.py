"""Metrics from features, their uncertainty, and comparisons between variants."""
