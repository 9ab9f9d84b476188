"""What Slurm says of jobs, by squeue alone: it needs no accounting."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

ALIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
LARGEST_ARRAY = 1000
"""Jobs of an array where the cluster does not say; Slurm's own limit is 1,001."""


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it."""

    state: str
    node: str
    reason: str

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state in ALIVE


def jobs() -> dict[str, Job] | None:
    """This user's jobs by id (array members apart), those of late included; None: no answer."""
    text = _ask("squeue", "--me", "-h", "-r", "--states=all", "-o", "%i|%T|%N|%r")
    if text is None:
        return None
    found = {}
    for line in text.splitlines():
        name, state, node, reason = (line.split("|") + ["", "", ""])[:4]
        found[name.strip()] = Job(state, node, reason)
    return found


def largest_array() -> int:
    """Jobs that one array may have."""
    for line in (_ask("scontrol", "show", "config") or "").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdigit():
            return max(int(value), 1)
    return LARGEST_ARRAY


def cancel(ids: list[str]) -> None:
    """Cancel jobs."""
    for i in range(0, len(ids), 200):
        subprocess.run(["scancel", *ids[i : i + 200]], check=True, capture_output=True)


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
