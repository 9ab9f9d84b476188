"""A run's folder: its tables, whose columns ``schema`` states, its pictures, and its facts."""
