"""Who makes the stages: this process, worker processes, torchrun's, or Slurm's jobs."""
