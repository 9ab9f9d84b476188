"""Images in class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from piflow_bench.preparation.sources.source import ImageSource, ReadError, is_image, ordered


@dataclass(frozen=True)
class Files:
    """The bytes of files below ``root``, by number."""

    root: Path
    names: list[str]

    def __call__(self, i: int) -> bytes:
        """The i-th file."""
        try:
            return (self.root / self.names[i]).read_bytes()
        except OSError as error:
            raise ReadError(f"{self.root / self.names[i]}: {error.strerror}") from error


def class_folders(root: Path) -> ImageSource:
    """The images in the folders that lie in ``root``, each of which is a class."""
    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    found = (
        (folder.name, file.name, None)
        for folder in folders
        for file in folder.iterdir()
        if is_image(file.name)
    )
    names, labels, classes, _ = ordered(found, {p.name for p in folders})
    return ImageSource(names, labels, classes, Files(root, names), f"class folders, {root}")
