"""Transformers of text-to-image models as backbones, frozen once and shared by all roles."""
