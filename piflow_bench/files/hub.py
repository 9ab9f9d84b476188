"""Files named by a local path, by an address on the Hugging Face hub, or in a Python package."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from piflow_bench.errors import UserError

SCHEME = "hf://"
IN_PACKAGE = "package://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([^@]+?))?/?(?:@([\w./-]+))?")


def is_address(source: str) -> bool:
    """Whether ``source`` names something on the hub."""
    return source.startswith(SCHEME)


def local_path(source: str, what: str = "checkpoint") -> Path:
    """The local file or folder of ``PATH`` or ``hf://owner/name[/path/inside][@revision]``.

    ``package://NAME/path/inside`` is what an installed Python package brings along. An address
    on the hub whose path has a suffix is a file, any other a folder. Downloads are kept in the
    hub's own cache; with ``HF_HUB_OFFLINE=1`` nothing but the cache is looked at.

    Raises:
        UserError: if there is no such file, or it cannot be had.
    """
    if not is_address(source):
        path = _here(source)
        if path is None or not path.exists():
            raise UserError(f"{what}={source}: no such file or folder")
        return path
    match = _ADDRESS.fullmatch(source)
    if match is None:
        raise UserError(f"{what}={source}: an address is hf://owner/name[/path][@revision]")
    repository, inside, revision = match.groups()
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if inside and Path(inside).suffix:
            return Path(hf_hub_download(repository, inside, revision=revision))
        wanted = [f"{inside}/*"] if inside else None
        root = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # The hub's client and its transport raise errors of many kinds.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{what}={source}: not in the hub's cache and cannot be downloaded ({reason}); fetch "
            "it where there is a network, and give its local path"
        ) from error
    folder = root / inside if inside else root
    if not folder.is_dir():
        raise UserError(f"{what}={source}: {repository} has no folder {inside}")
    return folder


def _here(source: str) -> Path | None:
    """Where a path, or what a package brings, is on this machine; None: no such package."""
    if not source.startswith(IN_PACKAGE):
        return Path(source).expanduser()
    name, _, inside = source.removeprefix(IN_PACKAGE).partition("/")
    spec = find_spec(name) if name.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / inside if places else None


def download_command(source: str | None) -> str:
    """The command that fetches an address where there is a network; "" for a path."""
    if source is None or not is_address(source):
        return ""
    owner, name, *inside = source.removeprefix(SCHEME).partition("@")[0].split("/")
    return f"hf download {owner}/{name} {'/'.join(inside)}".strip() + ", then"


def in_cache(source: str) -> Path | None:
    """Where ``source`` lies without any download, or None."""
    if not is_address(source):
        path = _here(source)
        return path if path is not None and path.exists() else None
    match = _ADDRESS.fullmatch(source)
    if match is None:
        return None
    repository, inside, revision = match.groups()
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    if inside and Path(inside).suffix:
        found = try_to_load_from_cache(repository, inside, revision=revision)
        return Path(found) if isinstance(found, str) else None
    try:
        root = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    folder = root / inside if inside else root
    return folder if folder.is_dir() else None
