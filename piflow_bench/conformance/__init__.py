"""What a plugin is held to, and the small teachers that it is tried on."""
