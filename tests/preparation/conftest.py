"""Ten classes of generated JPEGs and a tiny autoencoder that halves an image once."""

import pytest
import torch

from piflow_bench.preparation import stand_ins as generated
from piflow_bench.preparation.imagenet import prepare

SETTINGS = {"size": 32, "classes": 10, "shard": 6, "batch": 2, "device": "cpu"}


class Inputs:
    """The folder of inputs, and what is made of it."""

    def __init__(self, folder):
        self.folder = folder
        self.images, self.autoencoder = folder / "images", folder / "autoencoder"
        self.files = sorted(self.images.rglob("*.JPEG"))

    def make(self, out, source=None, **settings):
        """Latents of a source; returns their folder."""
        options = {**SETTINGS, **settings}
        return prepare(str(source or self.images), str(out), str(self.autoencoder), **options)

    def arguments(self, out, *settings):
        """Those of the command line."""
        return [
            "prepare", "imagenet", f"source={self.images}", f"out={out}",
            f"autoencoder={self.autoencoder}", *(f"{k}={v}" for k, v in SETTINGS.items()),
            *settings,
        ]  # fmt: skip


def small_autoencoder(folder, **settings):
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
            **settings,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    generated.images(folder / "images", per_class=3)
    small_autoencoder(folder / "autoencoder")
    return Inputs(folder)


@pytest.fixture(scope="session")
def whole(inputs, tmp_path_factory):
    """Latents that one process made at one go; not to be changed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # Rounding depends on it, and other processes have one.
    try:
        return inputs.make(tmp_path_factory.mktemp("whole") / "latents")
    finally:
        torch.set_num_threads(before)


def contents(folder):
    """Every file's bytes; the shards and ``latents.json`` are all that a whole folder has."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def copy(inputs, tmp_path):
    """Inputs of one's own, to be damaged."""
    import shutil

    shutil.copytree(inputs.folder, tmp_path / "copy")
    return Inputs(tmp_path / "copy")
