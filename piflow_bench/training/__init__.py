"""The training loop and what it owns: budget, EMA, checkpoints, gradient synchronisation."""
