"""Stages as Slurm jobs, through submitit; see rounds.py for how they go out."""
