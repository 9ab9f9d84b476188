"""What means "the user can mend this", and the exit codes of the command line."""

OK, BUG, USER_ERROR, FAILED_CELLS, CHECK_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130


class UserError(Exception):
    """A user's mistake: one clear line with the fix; the command line exits with code 2."""


def nearest(name: str, valid: list[str]) -> str:
    """Text that names the nearest valid spelling, or all of them where none is near."""
    import difflib

    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(sorted(valid))}"
