"""The verb ``prepare``: pictures of one's own, a classifier, ImageNet's latents, the digits."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from piflow_bench.commands.arguments import only_out
from piflow_bench.config.paths import split_paths
from piflow_bench.errors import OK, UserError, nearest
from piflow_bench.files.atomic import check_writable
from piflow_bench.preparation.imagenet import prepare
from piflow_bench.preparation.job import Preparation
from piflow_bench.progress_bar import told
from piflow_bench.settings import DEVICE, build_dataclass, read_setting, setting

PATHS = ("source", "out", "autoencoder", "reference")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Settings that change no result."""

    batch: int = setting(32, least=1)
    device: str | None = setting(None, **DEVICE)
    processes: int = setting(1, least=1)


def prepare_imagenet(arguments: Sequence[str]) -> Path:
    """Make latents from ``key=value`` arguments; returns their folder.

    Raises:
        UserError: naming the setting.
    """
    overrides, paths = split_paths(arguments, PATHS)
    groups = {
        group: [f.name for f in dataclasses.fields(group)] for group in (Preparation, Machine)
    }
    known = [*PATHS, *(name for names in groups.values() for name in names)]
    given: dict[Any, dict[str, Any]] = {group: {} for group in groups}
    for override in overrides:
        key = override.partition("=")[0]
        group = next((g for g, names in groups.items() if key in names), None)
        if group is None:
            raise UserError(f"{key}: no such setting; {nearest(key, known)}")
        given[group][key] = read_setting(override)[1]
    for key in ("source", "out"):
        if key not in paths:
            raise UserError(f"prepare imagenet: needs {key}=PATH")
    if "reference" in paths:
        given[Preparation]["reference"] = paths.pop("reference")
    settings, machine = (build_dataclass(g, v, "") for g, v in given.items())
    every: dict[str, Any] = {
        **paths,
        **dataclasses.asdict(machine),
        **dataclasses.asdict(settings),
    }
    with told(Console()) as report:
        return prepare(**every, report=report)


def prepare_images(arguments: Sequence[str]) -> Path:
    """Prepare pictures of one's own from ``key=value`` arguments; returns their folder.

    Raises:
        UserError: naming the setting, or what is wrong with the pictures.
    """
    from piflow_bench.data.images import Config
    from piflow_bench.preparation.pictures import prepare_pictures

    overrides, paths = split_paths(arguments, ("folder", "out", "labels"))
    for key in ("folder", "out"):
        if key not in paths:
            raise UserError(f"prepare images: needs {key}=PATH")
    given = {key: value for key, value in map(read_setting, overrides)}
    known = ("size", "crop")
    for key in given:
        if key not in known:
            raise UserError(f"{key}: no such setting; {nearest(key, [*known, 'labels'])}")
    chosen = build_dataclass(Config, {**given, "labels": paths.get("labels")}, "")
    with told(Console()) as report:
        made = prepare_pictures(
            paths["folder"],
            paths["out"],
            size=chosen.size,
            crop=chosen.crop,
            labels=chosen.labels,
            report=lambda share, text: report(f"pictures {text}", round(100 * share), 100),
        )
    console = Console()
    for caution in made.cautions:
        console.print(caution, highlight=False, markup=False, soft_wrap=True)
    count, (_, height, width, channels) = len(made), made.images.shape
    classes = f", {len(made.classes)} classes" if made.classes else ""
    console.print(
        f"{count:,} pictures of {width}x{height}x{channels}{classes}; "
        f"dataset.folder={paths['out']}",
        highlight=False,
        soft_wrap=True,
    )
    return Path(paths["out"])


def prepare_classifier(arguments: Sequence[str]) -> Path:
    """Train a classifier of an experiment's data from ``key=value`` arguments; returns its file.

    Raises:
        UserError: naming the setting, or why the data have no classifier.
    """
    from piflow_bench.config.compose import compose
    from piflow_bench.pipeline.plan.world import runtime_of
    from piflow_bench.preparation.classifier import ClassifierTraining, train_classifier

    names = [f.name for f in dataclasses.fields(ClassifierTraining)]
    own = {name: a for a in arguments if (name := a.partition("=")[0]) in (*names, "out")}
    if "out" not in own:
        raise UserError("prepare classifier: needs out=FILE")
    out = Path(own.pop("out").partition("=")[2]).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"out={out}: must be a file whose name ends in .safetensors")
    settings = build_dataclass(ClassifierTraining, dict(map(read_setting, own.values())), "")
    configs = compose([a for a in arguments if a.partition("=")[0] not in (*names, "out")])
    if len(configs) > 1:
        raise UserError(f"prepare classifier: of one experiment, not of {len(configs)}")
    check_writable("out", out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = runtime_of(configs[0]).dataset()
    with told(Console()) as report:
        made = train_classifier(dataset, settings, out, report)
    Console().print(
        f"{made.accuracy:.1%} of {made.held_out:,} held-out pictures right; "
        f"extractors.classifier.weights={out}",
        highlight=False,
        soft_wrap=True,
    )
    return out


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("dataset", choices=["images", "classifier", "imagenet", "digits"])
    parser.add_argument(
        "settings",
        nargs="*",
        help="images: folder=PATH out=FOLDER [size=32 or [H,W]] [crop=centre] [labels=FILE]. "
        "classifier: experiment=NAME out=FILE.safetensors [KEY=VALUE of the experiment] "
        "[epochs=12] [batch=128] [lr=0.003] [decay=0.05] [shift=2] [mirror=true] [seed=0]. "
        "digits: out=FOLDER. imagenet: source=FOLDER_TAR_OR_PARQUET out=FOLDER "
        "[autoencoder=PATH] [size=256] [kind=mean-std | sample] [flip=true] [dtype=float16] "
        "[classes=1000] [shard=10000] [batch=32] [device=cuda] [processes=1] "
        "[skip_corrupt=false] [partial=false] [seed=0] [reference=FILE.npz protocol=NAME: also the "
        "cropped images' statistics]",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if options.dataset == "imagenet":
        print(prepare_imagenet(options.settings))
        return OK
    if options.dataset == "images":
        print(prepare_images(options.settings))
        return OK
    if options.dataset == "classifier":
        print(prepare_classifier(options.settings))
        return OK
    from piflow_bench.pipeline.runner import prepare_digits

    prepare_digits(only_out(options.settings))
    return OK
