"""Names, numbers, looks and templates."""
