"""Checkpoints of the field as networks of this package; a file a layout."""

from __future__ import annotations

from typing import NamedTuple

from piflow_bench.networks.unet import UNet


class Pretrained(NamedTuple):
    """A U-Net from a checkpoint, in float32; ``network.architecture`` has its facts."""

    network: UNet
    digest: str
    """sha256 of the checkpoint."""
    taken: str
    """Which of the file's sets of weights it has; empty if it has one."""
