"""Rewards that are shipped."""
