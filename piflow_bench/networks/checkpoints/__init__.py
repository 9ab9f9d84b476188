"""Checkpoints of the field as networks of this package; a file a layout."""
