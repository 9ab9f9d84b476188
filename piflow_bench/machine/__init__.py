"""What a machine lacks for an experiment, how to mend it, and what the experiment would cost."""
