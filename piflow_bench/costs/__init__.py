"""What computing costs: FLOPs, seconds and memory."""
