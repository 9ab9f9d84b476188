"""Samples as pictures in the page."""
