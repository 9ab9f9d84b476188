"""Settings that trials chose, by experiment: YAML alone."""
