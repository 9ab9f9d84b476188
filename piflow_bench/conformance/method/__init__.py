"""The contract of a method as tests, on tiny stand-ins."""
