"""Backbones: velocity networks with a common shape (see dit.py)."""
