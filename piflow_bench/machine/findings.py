"""What an experiment needs of a machine, what of it is there, and how the rest is had."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

from piflow_bench.config.schema import ExperimentConfig, keys_that_set
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.files.hub import download_command, in_cache, is_address
from piflow_bench.machine.estimates import stored_bytes
from piflow_bench.machine.known import about
from piflow_bench.places import store_root
from piflow_bench.preparation.given import is_stand_in

OK, GAP, NOTE = "ok", "missing", "note"


@dataclass(frozen=True)
class Finding:
    """One line of the table; ``state`` is ok, missing or note."""

    what: str
    state: str
    detail: str
    mend: str = ""


def findings(config: ExperimentConfig) -> list[Finding]:
    """Everything that the experiment needs of this machine, each once."""
    found = [*_gpus(config), *_packages(config), *_files(config), _disk(config)]
    return list(dict.fromkeys(found))


def gaps(config: ExperimentConfig) -> list[Finding]:
    """What is missing of GPUs, files and room, for experiments that need more than any machine has.

    The others say in one line what they could not do.
    """
    if not requirements(config) and config.scale.device != "cuda":
        return []
    return [f for f in findings(config) if f.state == GAP]


def _gpus(config: ExperimentConfig) -> Iterator[Finding]:
    scale = config.scale
    if scale.device != "cuda":
        yield Finding("GPU", OK, f"not needed: scale.device={scale.device}")
        return
    if config.launcher.name == "slurm":
        yield Finding("GPU", NOTE, "the cluster's: jobs ask for launcher.gpus a node")
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < scale.processes:
        yield Finding(
            "GPU",
            GAP,
            f"{scale.processes} wanted, {count} found",
            f"scale.processes={count}" if count else "a machine with GPUs; profile=smoke runs here",
        )
        return
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    yield Finding("GPU", OK, f"{count} x {name}, {size / 2**30:.0f} GiB")


def _packages(config: ExperimentConfig) -> Iterator[Finding]:
    wanted = {"bitsandbytes": bool(keys_that_set(config, "adamw8bit"))}
    wanted["triton"] = config.scale.device == "cuda"
    for name, needed in wanted.items():
        if not needed:
            continue
        there = find_spec(name) is not None
        what = f"package {name}"
        yield Finding(what, OK if there else GAP, "", "" if there else f"pip install {name}")


def requirements(config: ExperimentConfig) -> list[Requirement]:
    """The files that the experiment's plugins are read from, and of published students."""
    from piflow_bench.pipeline.plan import runtime_of
    from piflow_bench.pipeline.plan.variants import variants_of
    from piflow_bench.pipeline.plan.world import published_in

    runtime = replace(runtime_of(config), inputs="")  # What nobody gives is not made.
    rewards = {v.facts.reward for v in variants_of(config) if v.facts.reward}
    plugins = [
        runtime.dataset_plugin(),
        runtime.teacher_plugin(),
        runtime.space_plugin(),
        *(runtime.extractor_plugin(name) for name in config.protocol.extractors),
        *(runtime.reward_plugin(name) for name in sorted(rewards)),
    ]
    found = [r for p in plugins for r in p.requirements() if not is_stand_in(r.source)]
    found += _scorers(config, runtime.scorers)
    for given in published_in(config):
        if not is_stand_in(given):
            mend = f"{download_command(given)} checkpoint=PATH of its variant".strip()
            found.append(Requirement("published weights", given, mend))
    return found


def _scorers(config: ExperimentConfig, given: Mapping[str, str | None]) -> Iterator[Requirement]:
    """The weights of metrics of pictures with prompts."""
    from piflow_bench.evaluation import scorers
    from piflow_bench.evaluation.extractors.extractor import cache_folder

    for metric in config.protocol.metrics:
        if metric not in scorers.names() or is_stand_in(given.get(metric)):
            continue
        name, file = f"scorers.{metric}.weights", scorers.file_of(metric)
        source = given.get(metric) or str(cache_folder() / file)
        yield Requirement(name, source, scorers.mend_of(metric))


def _files(config: ExperimentConfig) -> Iterator[Finding]:
    reachable: bool | None = None
    for r in requirements(config):
        if r.source is None:
            yield Finding(r.name, GAP, "not given", r.mend)
        elif (path := in_cache(r.source)) is not None:
            yield Finding(r.name, OK, str(path))
        elif is_address(r.source):
            reachable = _hub_answers() if reachable is None else reachable
            known = about(r.source)
            beside = f" ({known})" if known else ""
            if reachable:
                yield Finding(r.name, NOTE, f"{r.source} will be downloaded{beside}")
            else:
                words = f"{r.source}: the hub cannot be reached{beside}"
                yield Finding(r.name, GAP, words, r.mend)
        else:
            yield Finding(r.name, GAP, f"{r.source}: no such file or folder", r.mend)


def _hub_answers() -> bool:
    """Whether the hub can be reached, within seconds."""
    import socket
    from urllib.parse import urlparse

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    from huggingface_hub.constants import ENDPOINT

    place = urlparse(ENDPOINT)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=3):
            return True
    except OSError:
        return False


def _disk(config: ExperimentConfig) -> Finding:
    needed = stored_bytes(config)
    place = store_root(config.store, config.runs).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.0f} GB free at {place}"
    if needed <= free:
        return Finding("disk", OK, text)
    return Finding("disk", GAP, text, "store=PATH on a larger disk")
