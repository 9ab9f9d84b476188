"""Plugins to start from, a kind a file: `new` writes them with NAME and CLASS replaced."""
