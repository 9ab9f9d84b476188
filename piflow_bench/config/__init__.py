"""Settings: what there is, where experiments come from, and what is refused."""
