"""Choosing settings: the same number of trials for every variant, by one procedure."""
