"""The folder of a run's results holds one configuration, which may grow.

More variants, NFEs, seeds or metrics go on in the folder: no row is lost. Results of settings that
contradict those of the folder go to a folder beside it, called by what differs; the same settings
find it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from piflow_bench.config.schema import NAME, SPLIT, ExperimentConfig, to_plain
from piflow_bench.files.digests import digest
from piflow_bench.pipeline.live import configuration_of_live
from piflow_bench.pipeline.results.schema import Status
from piflow_bench.pipeline.store.uses import OF_THE_CALL, RUN

WORDS = (
    "experiment_file", "title", "question", "references", "family", "plugins", "smoke", "is_smoke",
    "add", "parts", "tuned", "search",
)  # fmt: skip
"""Settings that decide no number: what is said of the results, and where things are found."""
READING = ("name", "primary_question", "primary_quality", "primary_diversity")
"""The same of a protocol."""
OPEN = ("settings", "settings_at", "sampling", "training", "budget")
"""Of a variant: what is not there has its default, so that it differs from what is."""
NAMED, LONGEST = 3, 60
"""Differences that are named, and characters of each value."""


@dataclass(frozen=True)
class Difference:
    """What of two configurations gives them other results."""

    words: str
    name: str
    """It as a part of a folder's name."""


def _difference(key: str, there: Any, here: Any) -> Difference:
    short = key.removeprefix("variants.").replace(".settings.", ".")
    words = f"{key}: there {_cut(_text(there))}, here {_cut(_text(here))}"
    return Difference(words, _part(f"{short}-{_text(here)}"))


def _part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    """Settings of a configuration ``here`` under which rows of one ``there`` would be lost.

    Both are plain; what an older version wrote may lack settings, which say nothing then.
    """
    return [*_of_variants(there, here), *_of_the_rest(there, here)]


def _of_variants(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = _entered(there), _entered(here)
    lost = [name for name in old if name not in new]
    if lost:
        ways = f"only {', '.join(new)}", f"without {', '.join(lost)}"
        words = min(ways, key=len)
        yield Difference(f"here {_cut(words)}", _part(words))
    if not set(there["nfes"]) <= set(here["nfes"]):
        yield _difference("nfes", there["nfes"], here["nfes"])
    for name in old:
        for part in ("method", "seed_offset", "checkpoint", *OPEN) if name in new else ():
            yield from _apart(f"variants.{name}.{part}", old[name].get(part), new[name].get(part))
        if name in new:
            before, now = (_nfes(c, e[name]) for c, e in ((there, old), (here, new)))
            if not set(before) & set(here["nfes"]) <= set(now):
                yield _difference(f"variants.{name}.nfes", before, now)


def _entered(config: Mapping[str, Any]) -> dict[str, Any]:
    chosen = config.get("only") or list(config["variants"])
    known = {
        n: config["variants"].get(n, config["variants"].get(n.removesuffix(SPLIT))) for n in chosen
    }
    return {name: entry for name, entry in known.items() if entry is not None}


def _nfes(config: Mapping[str, Any], variant: Mapping[str, Any]) -> list[int]:
    own = variant.get("nfes")
    return [n for n in config["nfes"] if own is None or n in own]


def _of_the_rest(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Difference]:
    said = (*OF_THE_CALL, *WORDS, "variants", "only", "nfes")  # NFEs are the variants'.
    for key in there:
        if key in said or key not in here:
            continue
        if key == "protocol":
            for name in there[key]:
                if name in here[key] and name not in READING:
                    yield from _grown(f"{key}.{name}", there[key][name], here[key][name])
        else:
            yield from _grown(key, there[key], here[key])


def _grown(key: str, there: Any, here: Any) -> Iterator[Difference]:
    """The difference of two values, unless the second has all that the first has."""
    switched_on = there is False and here is True
    if isinstance(there, list) and isinstance(here, list):
        if not all(each in here for each in there):
            yield _difference(key, there, here)
    elif not switched_on:
        yield from _apart(key, there, here)


def _apart(key: str, there: Any, here: Any) -> Iterator[Difference]:
    """All values below a key that differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys([*there, *here]):
            yield from _apart(f"{key}.{name}", there.get(name), here.get(name))
    elif there != here and not _is_one_file(there, here):
        yield _difference(key, there, here)


def _is_one_file(there: Any, here: Any) -> bool:
    """Whether two paths hold the same: where a file lies is in no key."""
    if not (isinstance(there, str) and isinstance(here, str)):
        return False
    paths = Path(there), Path(here)
    return all(path.is_file() for path in paths) and digest(paths[0]) == digest(paths[1])


def _text(value: Any) -> str:
    """A value as settings are written."""
    if value is None:
        return "default"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.replace('"', "")


# ------------------------------------------------------------------ folders


def held(folder: Path) -> list[dict[str, Any]]:
    """The configurations of the results in a folder, and of a run that goes on there."""
    import yaml

    found = [configuration_of_live(folder)]
    # Of what is damaged nobody knows what it was; its command makes it again, from the store.
    with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        if (folder / "results.parquet").is_file():
            text = json.loads((folder / RUN).read_text())["config"]
            config = yaml.safe_load(str(text))
            found.append(_without_failed(config, folder) if _is_whole(config) else None)
    return [config for config in found if config and _is_whole(config)]


def _without_failed(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration without the variants that have no number to lose."""
    import pandas as pd

    try:
        table = pd.read_parquet(folder / "results.parquet", columns=["variant", "status"])
    except (OSError, ValueError):
        return config
    measured = table["status"] == Status.OK
    failed = set(table["variant"]) - set(table["variant"][measured])
    return {**config, "variants": {k: v for k, v in config["variants"].items() if k not in failed}}


def _is_whole(config: Any) -> bool:
    """Whether it can be compared: a file may hold anything."""
    return (
        isinstance(config, dict)
        and isinstance(config.get("nfes"), list)
        and isinstance(variants := config.get("variants"), dict)
        and all(isinstance(entry, dict) for entry in variants.values())
        and isinstance(config.get("protocol"), dict)
    )


def _held_otherwise(folder: Path, config: ExperimentConfig) -> list[Difference]:
    here, usual = to_plain(config), to_plain(ExperimentConfig(name=config.name))
    theirs = (_completed(each, usual) for each in held(folder))
    return next((found for each in theirs if (found := differences(each, here))), [])


def _completed(config: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the settings that there are since: they had their defaults then."""
    parts = {k: v for k, v in usual.items() if isinstance(v, Mapping) and k in config}
    return config | {k: {**v, **config[k]} for k, v in parts.items()}


def one_at_a_time(folder: Path) -> BaseFileLock:
    """Held while results are written there: of two runs of one folder none loses the other's."""
    return FileLock(folder / ".results.lock", mode=0o664)


def settled(config: ExperimentConfig) -> tuple[ExperimentConfig, str]:
    """The experiment under the name of the folder that its results go to.

    Returns:
        It, and words on why that is not the folder of its own name; empty where it is.
    """
    runs, name, passed = Path(config.runs), config.name, []
    while found := _held_otherwise(runs / name, config):
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        words = "; ".join(difference.words for difference in found[:NAMED])
        passed.append(f"{runs / name} keeps the results of other settings ({words}{more})")
        name = _beside(name, config.name, found, len(passed) + 1)
    if not passed:
        return config, ""
    return replace(config, name=name), f"{'; '.join(passed)}; these go to {runs / name}"


def _beside(name: str, first: str, found: Sequence[Difference], number: int) -> str:
    """The name of a folder beside one that is taken: what differs, or else a number."""
    words = "-".join([name, *(difference.name for difference in found)])
    fits = len(found) < NAMED and re.fullmatch(NAME, words)
    return words if fits else f"{first[:58]}-{number}"
