"""Plugins for the tests of `check`: each but the underscored breaks one rule."""
