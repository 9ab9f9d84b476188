"""One's own pictures end to end under the smoke profile: teacher, methods, page."""

import json
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.runs.run import open_run
from tests.pipeline.forked import Forked
from tests.pipeline.harness import call, forget
from tests.stripes import class_folders

ALL = ("experiment=images", "profile=smoke", "launcher=debug", "budget.amount=20",
       "budget.checkpoints=[1.0]")  # fmt: skip
ALONE = "teacher.threads=1"
"""For the teacher that is trained: other tests run beside it."""
METHODS = {"piflow-gm8", "meanflow", "dmd2", "kd"}
PIXELS = """
import torch
from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class SmallPixels(ExtractorPlugin):
    \"\"\"Pictures of 4x4 pixels.\"\"\"

    Config = NoSettings
    rule = "0 to 1, means of 4x4 parts"

    def load(self, name, place):
        def prepare(images):
            return torch.from_numpy(images).permute(0, 3, 1, 2) / 255

        def network(x):
            return {FEATURES: torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)}

        return self.loaded(name, place, prepare, network)
"""


class Ours:
    """A folder of pictures, and runs on them that share one store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures = class_folders(root / "stripes")
        self.plugin = root / "small_pixels.py"
        self.plugin.write_text(PIXELS)

    def run(self, *settings, name="images-smoke", code=0):
        """In this process; what came of it, and the results."""
        own = () if any(s.startswith("teacher=") for s in settings) else (ALONE,)
        given = (*ALL, *own, f"dataset.folder={self.pictures}", *settings)
        result = call("run", *given, cwd=self.root)
        assert result.returncode == code, result.stdout + result.stderr
        if code:
            return result, None
        table = pd.read_parquet(self.root / "runs" / name / "results.parquet")
        assert (table.status == "ok").all()
        return result, table

    def cheaply(self, name, *settings, **more):
        """One evaluation by cheap features; every method."""
        return self.run(f"name={name}", *self.cheap(), *settings, name=name, **more)

    def cheap(self):
        return (f"plugins={self.plugin}", "protocol.extractors=[small_pixels]", "nfes=[1]")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Ours(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(ours):
    """The shipped experiment, but for its sizes."""
    return ours.run()


def students(table):
    return set(table[table.role == "student"].variant)


def test_a_teacher_is_trained_and_all_methods_are_scored(ours, whole):
    result, table = whole
    assert students(table) == METHODS
    assert set(table[table.role == "student"].nfe) == {1, 4}
    teachers = table[table.role == "teacher"]
    assert set(zip(teachers.variant, teachers.nfe, strict=True)) >= {
        ("teacher-euler", 1),
        ("teacher-euler", 4),
        ("teacher-dpmpp", 4),
    }
    assert set(table.question.dropna()) == {"imitation", "data"}
    assert len(list((ours.root / "runs/store/artifacts").glob("train_teacher-*"))) == 1
    page = (ours.root / "runs/images-smoke/report.html").read_text()
    assert "the teacher is trained briefly, on 400 images, each seen 3 times" in page
    with np.load(ours.root / "runs/images-smoke/grids.npz", allow_pickle=False) as grids:
        assert grids["teacher"].shape[1:] == (16, 16, 3) and grids["teacher"].dtype == np.uint8


def test_a_second_call_computes_nothing(ours, whole):
    result, table = ours.run()
    assert "0 stages computed" in result.stdout
    assert table.equals(whole[1]) or list(table.value) == list(whole[1].value)


def runtime(ours, teacher):
    return Runtime(
        given=Given({"name": "images", "folder": str(ours.pictures)}, teacher),
        inputs=str(ours.root / "runs" / "inputs"),
    )


SIZES = {"images": 400, "batch": 16, "dim": 32, "depth": 2}


@pytest.fixture(scope="module")
def exported(ours, whole):
    return open_run(ours.root / "runs" / "images-smoke").export("teacher", ours.root / "kept")


def test_the_teacher_goes_on_in_another_run_bit_for_bit(ours, exported):
    (made,) = (ours.root / "runs/store/artifacts").glob("train_teacher-*")
    own = runtime(ours, {"name": "trained", **SIZES}).teacher(made)
    again = runtime(ours, {"name": "dit", "checkpoint": str(exported)}).teacher()
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(6, 3, 16, 16, generator=generator), torch.rand(6, generator=generator)
    condition = runtime(ours, {"name": "trained"}).dataset().conditions(0, range(6))
    expected = own(x, t, condition)  # A teacher is called without gradient.
    assert torch.equal(again(x, t, condition), expected) and expected.abs().mean() > 0
    _, table = ours.cheaply(
        "again", "teacher=dit", f"teacher.checkpoint={exported}", "only=[kd,teacher-euler]"
    )
    assert students(table) == {"kd"}


@pytest.fixture(scope="module")
def unet(ours):
    """A pipeline's folder of random weights that predicts noise."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            num_class_embeds=4,
        )
    network.save_pretrained(ours.root / "ddpm" / "unet")
    diffusers.DDPMScheduler().save_pretrained(ours.root / "ddpm" / "scheduler")
    return ours.root / "ddpm"


def test_a_diffusers_network_that_predicts_noise_teaches_all_methods(ours, unet):
    """Its random weights are no reason to refuse it."""
    _, table = ours.cheaply("ddpm", "teacher=unet", f"teacher.checkpoint={unet}")
    assert students(table) == METHODS
    assert list((ours.root / "runs/store/artifacts").glob("teacher_check-*"))


def test_pictures_without_classes(ours):
    _, table = ours.cheaply("unlabelled", "dataset.labels=none")
    assert students(table) == METHODS


def test_pictures_that_are_no_squares(ours):
    _, table = ours.cheaply("rectangles", "dataset.size=[16,12]", "teacher.patch=4")
    assert students(table) == METHODS
    with np.load(ours.root / "runs/rectangles/grids.npz", allow_pickle=False) as grids:
        assert grids["teacher"].shape[1:] == (16, 12, 3)


def test_an_archive_of_the_same_pictures_is_the_same(ours, whole):
    """Where they lie, and in what, is in no key: stages are found."""
    file = ours.root / "stripes.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(ours.pictures.rglob("*.png")):
            archive.write(path, path.relative_to(ours.pictures))
    result, table = ours.run(f"dataset.folder={file}")
    assert "0 stages computed" in result.stdout
    assert list(table.value) == list(whole[1].value)


# ------------------------------------------------------------------ the teacher's training itself

TEACHER = ("only=[teacher-euler]", "protocol.questions=[imitation]", "save_seconds=0.1")


def arguments(ours, root, *settings):
    return (
        *ALL, ALONE, f"dataset.folder={ours.pictures}", *ours.cheap(), *TEACHER,
        f"runs={root / 'runs'}", *settings,
    )  # fmt: skip


def weights(root):
    (made,) = (root / "runs/store/artifacts").glob("train_teacher-*")
    return made / "checkpoint_0.safetensors"


@pytest.mark.thorough
def test_a_teacher_whose_training_is_killed_is_the_same(ours, tmp_path):
    settings = arguments(ours, tmp_path, "teacher.images=1200")
    process = Forked(["run", *settings], tmp_path)
    work = tmp_path / "runs" / "store" / "work"
    end = time.monotonic() + 120
    while not list(work.glob("train_teacher-*/state/facts.json")):
        assert process.poll() is None and time.monotonic() < end, "nothing was saved"
        time.sleep(0.02)
    process.kill()
    process.wait()
    (state,) = work.glob("train_teacher-*/state/facts.json")
    assert 0 < json.loads(state.read_text())["step"] < 75, "it was under way"
    result = call("run", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    resumed = weights(tmp_path).read_bytes()
    shutil.rmtree(tmp_path / "runs" / "store")
    forget()
    assert call("run", *settings, cwd=tmp_path).returncode == 0
    assert weights(tmp_path).read_bytes() == resumed


@pytest.mark.thorough
def test_two_processes_train_the_teacher_that_one_does(ours, tmp_path):
    found = []
    for processes in (1, 2):
        root = tmp_path / str(processes)
        root.mkdir()
        settings = arguments(ours, root, "teacher.precision=fp64", f"scale.processes={processes}")
        forget()
        result = call("run", *settings, cwd=root)
        assert result.returncode == 0, result.stdout + result.stderr
        found.append(load_file(weights(root)))
    one, two = found
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (value - two[name]).abs().max() < 1e-6, name
