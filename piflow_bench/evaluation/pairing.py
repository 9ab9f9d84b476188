"""Which partner belongs to which sample: by name where both have names, otherwise by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os.path import commonprefix

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import is_image, two_orders

WAYS = {
    "labels": "subfolders as classes, a .csv file of file,label, or a .json file of {name: label}",
    "prompts": "a .json file of {name: prompt}",
    "teacher": "two folders of the same names",
}
"""How the partners of samples are named, by their setting."""


def check_counts(what: str, partners: int, noun: str, samples: int, cut: bool) -> None:
    """UserError unless there is one partner a sample, or ``cut``: n= takes some of both."""
    if partners != samples and not cut:
        raise UserError(
            f"{what}: {partners} {noun} for {samples} samples; one a sample is needed (with n=N "
            "the longer set's last ones may be left over)"
        )


def check_order(names: Sequence[str] | None, what: str) -> None:
    """UserError where ``what`` is paired by place with files whose names have two orders."""
    clash = two_orders(names) if names else None
    if clash:
        raise UserError(
            f"{what}: paired by place, but the images' names have two orders: {clash[0]} comes "
            f"before {clash[1]} by number and after it by letters; pad the numbers (007.png) or "
            f"pair by name ({WAYS[what]})"
        )


def by_name(samples: Sequence[str], partners: Sequence[str], what: str) -> np.ndarray:
    """Places ``(n,)`` of the samples' partners of the same names.

    Suffixes of images, and folders that hold all of one side, count where names agree with them.

    Raises:
        UserError: naming a sample without a partner, or what is there twice.
    """
    ours, theirs = list(samples), list(partners)
    for plainer in (_bare, _unwrapped):
        if not set(ours) <= set(theirs):
            ours, theirs = plainer(ours), plainer(theirs)
    for names in (ours, theirs):
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{what}: paired by name, but {twice} is there twice")
    places = {name: place for place, name in enumerate(theirs)}
    alone = next((i for i, name in enumerate(ours) if name not in places), None)
    if alone is not None:
        raise UserError(
            f"{what}: paired by name, but none is called like the sample {samples[alone]}; give "
            "both sets the same names"
        )
    return np.array([places[name] for name in ours])


def bare(names: Sequence[str]) -> list[str]:
    """Names without the suffixes of images and without folders that hold all of them."""
    return _unwrapped(_bare(names))


def _bare(names: Sequence[str]) -> list[str]:
    return [name.rpartition(".")[0] if is_image(name) else name for name in names]


def _unwrapped(names: Sequence[str]) -> list[str]:
    shared = len(commonprefix([name.split("/")[:-1] for name in names]))
    return ["/".join(name.split("/")[shared:]) for name in names]
