"""Stages, the artifact store, launchers and the results table."""
