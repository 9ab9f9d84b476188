"""pi-Flow (arXiv 2510.14974): policies, heads and policy imitation distillation."""
