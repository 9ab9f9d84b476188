"""Passes over all pairs of points, and what is read off them: neighbours, balls, kernel sums."""
