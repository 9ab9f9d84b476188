"""The artifact store, and what it remembers of attempts, uses and progress."""
