"""Starting a run from Python.

The command line is called in a process of its own: what it prints passes through, a notebook needs
nothing, and a script needs no main guard.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from piflow_bench.config.compose import compose
from piflow_bench.config.paths import PATH_KEYS
from piflow_bench.errors import UserError
from piflow_bench.runs.run import Run

ENDED = (0, 3)
"""Exit codes of a run that has results: all cells, or all but some that failed."""


def run(experiment: str | Path = "digits", *settings: str, **named: Any) -> Run:
    """Run an experiment and open it; only what is missing is computed.

    Args:
        experiment: its name, or a file of one's own: ``"./my.yaml"``.
        settings: as on the command line, such as ``"budget.amount=6000"``.
        named: the same by name, nested as ``budget={"amount": 6000}``.

    Raises:
        UserError: what the command line would say in one line.
    """
    words = [f"experiment={experiment}", *settings, *_flat(named)]
    configs = compose(words)
    if len(configs) > 1:
        names = ", ".join(config.name for config in configs)
        raise UserError(f"{' '.join(words)}: is several runs ({names}); call each by its name")
    from piflow_bench.pipeline.run_folder import settled

    code, said = _passed_through([sys.executable, "-m", "piflow_bench", "run", *words])
    if code not in ENDED:
        if code == 130:
            raise KeyboardInterrupt
        last = said[-1] if said else f"exit code {code}"
        raise (UserError(last.removeprefix("error: ")) if code == 2 else RuntimeError(last))
    config, _ = settled(configs[0])  # Where its results lie, not those of other settings.
    return Run((Path(config.runs) / config.name).absolute())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as the command line takes them."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif key not in PATH_KEYS:
            yield f"{key}={_written(value)}"
        elif isinstance(value, list | tuple):
            yield f"{key}={','.join(map(str, value))}"
        elif value is not None:
            yield f"{key}={value}"


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{_written(v)}' for k, v in value.items())}}}"
    if isinstance(value, str | Path):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def _passed_through(command: list[str]) -> tuple[int, list[str]]:
    """Run a command whose lines are printed as they come; its exit code and its last words."""
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.strip():
                    said = [*said[-9:], line.strip()]
        except BaseException:  # It keeps what it has, and goes on when it is called again.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    return process.returncode, said
