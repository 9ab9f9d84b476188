"""Kinds of stages, each with its fields and what it does in one file (the table: ``kinds.py``)."""
