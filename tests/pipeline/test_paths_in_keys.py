"""Where a file lies is in no key; what it holds is in the key of all that is made from it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.config.compose import compose
from piflow_bench.data.digits import ASSETS
from piflow_bench.networks.mlp import MLP
from piflow_bench.pipeline.plan import make_plan
from tests.pipeline.harness import forget


def digits_teacher(folder):
    path = folder / "teacher.safetensors"
    shutil.copy(ASSETS / "digits_teacher.safetensors", path)
    return path


def points_backbone(folder):
    torch.manual_seed(0)
    path = folder / "backbone.safetensors"
    save_file(MLP(dim=64, depth=3).state_dict(), path)
    return path


DIGITS = ("profile=smoke", "only=[kd]", "nfes=[1]", "teacher.untrained=false")
WHOLE = ("teacher.dim=64", "teacher.depth=3")
POINTS = ("experiment=analytic_mixture2d", "profile=smoke", "only=[kd]", *WHOLE)
GIVEN = {
    # key: (the experiment, its file, the stages that no file of this kind decides)
    "teacher.checkpoint": ((*DIGITS, *WHOLE), digits_teacher),
    "teacher.backbone": (POINTS, points_backbone),
}


def plan(settings, *more):
    forget()  # As a call of its own.
    (config,) = compose([*settings, *more])
    return make_plan(config)


def names(made):
    return {stage.name for stage in made.stages}


@pytest.mark.parametrize("key", GIVEN)
def test_a_moved_file_changes_nothing_and_a_changed_one_what_is_made_from_it(key, tmp_path):
    settings, make = GIVEN[key]
    path = make(tmp_path)
    before = plan(settings, f"{key}={path}")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere" / "renamed.safetensors")
    after = plan(settings, f"{key}={moved}")
    assert names(after) == names(before)
    assert after.protocol_hash == before.protocol_hash
    state = load_file(path)
    name = sorted(state)[0]
    save_file(state | {name: state[name] + 1.0}, path)
    changed = plan(settings, f"{key}={path}")
    students = [s for s in changed.stages if s.kind in ("distill", "sample", "converged")]
    assert students and not {s.name for s in students} & names(before)


def test_the_shipped_teacher_given_as_a_file_is_the_shipped_teacher(tmp_path):
    path = digits_teacher(tmp_path)
    settings = (*DIGITS, *WHOLE)
    assert names(plan(settings)) == names(plan(settings, f"teacher.checkpoint={path}"))
