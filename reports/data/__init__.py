"""A run's files, read and merged, and pandas made of them that all parts share."""
