"""Published numbers that stand beside measured ones: YAML alone."""
