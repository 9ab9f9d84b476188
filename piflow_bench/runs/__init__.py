"""Runs from Python: start one, open one, read its results, sample and export its students."""
