"""The page and the terminal's end of `evaluate`."""
