"""Spaces that samples lie in: pixels, latents of an autoencoder, points."""
