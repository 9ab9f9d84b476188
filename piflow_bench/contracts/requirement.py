"""What a dataset is read from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """A file that a dataset is read from; a dataset's module lists them in ``requirements``."""

    name: str
    """The setting."""
    source: str | None
    """Path or address; None where it was not given."""
    mend: str
    """The command or setting that brings it."""
