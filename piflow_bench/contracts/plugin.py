"""What every kind of plugin but a method is: a frozen configuration, and what it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from piflow_bench.contracts.requirement import Requirement
from piflow_bench.settings import is_location


@dataclass(frozen=True)
class NoSettings:
    """Of a plugin that has none."""


@dataclass(frozen=True)
class Place:
    """Where something is computed: what changes no result beyond rounding."""

    device: str = "cpu"
    """cpu | cuda | cuda:1."""
    inputs: str = "runs/inputs"
    """Folder where data that were prepared are kept."""


class Plugin:
    """Base of plugins: a subclass sets ``Config``; ``self.config`` is a validated one.

    Fields of ``Config`` that are files or addresses on the hub are of the type ``Location``: their
    values are taken literally, and of them the content decides, wherever it lies.
    """

    kind: ClassVar[str]
    """dataset | teacher | space | extractor."""
    Config: ClassVar[type] = NoSettings

    def __init__(self, config: Any) -> None:
        self.config = config

    def requirements(self) -> Sequence[Requirement]:
        """Files it needs, for `doctor`."""
        return ()

    def identity(self) -> Mapping[str, Any]:
        """All that decides its results, as plain values; no weights are loaded.

        By default every setting, files by the digest of their content.
        """
        from piflow_bench.files.digests import digest
        from piflow_bench.files.hub import local_path

        found = {}
        for field in dataclasses.fields(self.config):
            value = getattr(self.config, field.name)
            if value is not None and is_location(type(self.config), field.name):
                value = digest(local_path(value, f"{self.kind}.{field.name}"))
            found[field.name] = value
        return found
