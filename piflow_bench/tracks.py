"""The tracks of students: only those of one track are compared."""

DISTILLED = "distilled"
"""The teacher is given to all."""
FROM_SCRATCH = "from scratch"
"""No teacher is given; its own training counts."""
NONE = "none"
"""Nothing is trained."""
ONE_BUDGET = "one budget"
"""Distilled specialists whose trainings share one budget, beside students of one training."""
TRACKS = (DISTILLED, FROM_SCRATCH, NONE)
"""Those that a method may declare."""
