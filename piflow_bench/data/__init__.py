"""Datasets that the harness ships: digits, and closed-form distributions in the plane."""
