"""What samples are compared with: facts of a reference set, and files of its statistics."""
