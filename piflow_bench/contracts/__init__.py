"""What plugins implement and are given."""
