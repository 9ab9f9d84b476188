"""What several verbs say and read alike."""

from __future__ import annotations

from collections.abc import Sequence

SETTINGS = "key=value settings; `show` prints them all"


def only_out(settings: Sequence[str]) -> str | None:
    """The value of ``out=``, the one setting of some verbs."""
    from piflow_bench.config.paths import split_paths
    from piflow_bench.errors import UserError

    overrides, paths = split_paths(settings)
    for key in [o.partition("=")[0] for o in overrides] + list(paths):
        if key != "out":
            raise UserError(f"{key}=: this verb takes out=FOLDER alone")
    return paths.get("out")
