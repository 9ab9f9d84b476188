"""What several methods are made of: each stands here once."""
