"""The command line in processes of their own that need not import anything: they can be killed.

Each is forked from a server that has the libraries, so it is what ``python -m piflow_bench`` is a
few seconds after its start: with its own memory, files, environment and signals. Where those
seconds matter, or the shell, tests start Python itself. Its workers are forked from it in turn.
"""

import gc
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from piflow_bench.cli import main
from piflow_bench.pipeline.launchers import local

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(  # Nothing of ``tests``: other packages have a module of that name.
    [
        "diffusers.models.autoencoders.autoencoder_kl",
        "pandas",
        "piflow_bench.pipeline.results.run",
        "piflow_bench.pipeline.runner",
        "piflow_methods.dmd2",
        "piflow_reports.page",
        "pytest",
        "sklearn.datasets",
        "torch._dynamo",  # Every optimizer asks for it.
    ]
)


def _command(
    arguments: Sequence[str], cwd: Path, files: Sequence[Path | str], environment: dict[str, str]
) -> None:
    for number, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    gc.freeze()  # To look through what was inherited is to copy it.
    local.PROCESSES = multiprocessing.get_context("fork")
    sys.exit(main(arguments))


class Forked:
    """A command under way; its methods are those of ``subprocess.Popen``."""

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        output: Path | str = os.devnull,
        errors: Path | str = os.devnull,
        **environment: str,
    ) -> None:
        given = (arguments, cwd, (output, errors), {**os.environ, **environment})
        self._process = SERVER.Process(target=_command, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, -9 of one that was killed; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("piflow_bench", timeout or 0.0)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
