"""Teachers with settings of their own, by name."""
