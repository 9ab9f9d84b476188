"""Flow maps: MeanFlow (arXiv 2505.13447) and its kin, one training step with many settings."""
