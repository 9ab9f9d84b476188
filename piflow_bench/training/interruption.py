"""A request to stop training at the next step, with its state kept: preemption, a time limit."""

from __future__ import annotations


class Stopped(BaseException):
    """Training stopped because it was asked to; its state is written."""


_asked = False


def ask() -> None:
    """Ask whoever trains in this process to stop after the present step."""
    global _asked
    _asked = True


def asked() -> bool:
    """Whether training is to stop."""
    return _asked


def forget() -> None:
    """Take the request back."""
    global _asked
    _asked = False
