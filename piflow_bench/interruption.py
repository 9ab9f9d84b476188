"""A request to stop long work at its next step, with its state kept: preemption, a time limit."""

from __future__ import annotations


class Stopped(BaseException):
    """Work stopped because it was asked to; what it had is written."""


_asked = False


def ask() -> None:
    """Ask what works in this process to stop after the present step or batch."""
    global _asked
    _asked = True


def asked() -> bool:
    """Whether work is to stop."""
    return _asked


def forget() -> None:
    """Take the request back."""
    global _asked
    _asked = False
