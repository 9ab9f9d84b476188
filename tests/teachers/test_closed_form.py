"""The exact field as a teacher, and the network fitted to it that all students start from."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench import flow
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.data import Truth
from piflow_bench.costs.flops import count_all_flops
from piflow_bench.data import checkerboard2d, mixture2d
from piflow_bench.errors import UserError
from piflow_bench.randomness import seed_of
from piflow_bench.teachers.closed_form import fit_backbone
from tests.world import world

DATASETS = pytest.mark.parametrize("module", [mixture2d, checkerboard2d], ids=lambda m: m.NAME)
TINY = {"backbone_steps": 2, "dim": 16, "depth": 1}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(folder, module=mixture2d, **settings):
    """The runtime, and the file that the teacher's stage writes."""
    runtime = world(module.NAME, **settings)
    runtime.teacher_plugin().make(runtime.dataset(), folder, lambda share, words: None)
    (path,) = folder.iterdir()
    return runtime, path


# ---------------------------------------------------------------------------- fitting


def error_of(module, network):
    n = 4000
    x0, t = module.draw(77, n), torch.rand(n, generator=torch.Generator().manual_seed(1))
    x = flow.interpolate(x0, normal(n, 2, dtype=torch.float32), t)
    with torch.no_grad():
        difference = network(x, t, Unconditional(n)) - module.velocity(x, t)
    return float(difference.square().mean())


def fitted(module, steps, seed=0):
    return fit_backbone(
        Truth(module.velocity, module.draw), steps, seed, batch=128, dim=32, depth=2
    )


@DATASETS
def test_fitting_lowers_the_error(module):
    start, end = error_of(module, fitted(module, 0)), error_of(module, fitted(module, 250))
    assert end < 0.3 * start, (start, end)


def test_fitting_is_deterministic_by_its_seed():
    def weights(seed):
        network = fitted(mixture2d, 10, seed)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    first = weights(0)
    torch.manual_seed(99)
    torch.randn(5)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)
    start, other = fitted(mixture2d, 0, 0), fitted(mixture2d, 0, 1)
    assert not torch.equal(start.proj_in.weight, other.proj_in.weight)


def test_fitting_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fitted(mixture2d, 2)
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------- the teacher


@DATASETS
def test_teacher_is_the_closed_form_without_matrix_products(module, tmp_path):
    runtime, _ = make(tmp_path, module, **TINY)
    teacher = runtime.teacher(tmp_path)  # The folder of the stage.
    assert teacher is runtime.teacher(tmp_path)
    assert teacher.closed_form and not teacher.guidance.on and teacher.taken == ""
    x, t = normal(8, 2), torch.linspace(0.1, 1, 8, dtype=torch.float64)
    with count_all_flops() as counter:
        u = teacher(x, t, Unconditional(8))
    assert counter.get_total_flops() == 0
    assert torch.equal(u, module.velocity(x, t))
    fresh = runtime.teacher_plugin().fresh_network(runtime.dataset())
    shapes = {k: v.shape for k, v in fresh.state_dict().items()}
    assert shapes == {k: v.shape for k, v in teacher.network.state_dict().items()}
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_the_stage_fits_the_same_start_every_time(tmp_path):
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        runtime, made = make(tmp_path / name, **TINY)
        torch.rand(3)
        files.append(made.read_bytes())
    assert files[0] == files[1]
    weights = load_file(made)
    for name, value in runtime.teacher(made).network.state_dict().items():
        assert torch.equal(value, weights[name])
    seed = seed_of("mixture2d", 303)
    same = fit_backbone(
        Truth(mixture2d.velocity, mixture2d.draw), 2, seed, dim=16, depth=1
    ).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in same.items())
    (tmp_path / "c").mkdir()
    other = load_file(make(tmp_path / "c", checkerboard2d, **TINY)[1])
    assert any(not torch.equal(value, weights[name]) for name, value in other.items())


def test_a_backbone_fitted_before_is_loaded(tmp_path):
    sizes = {"dim": 16, "depth": 1}
    for name in ("before", "made", "other"):
        (tmp_path / name).mkdir()
    _, before = make(tmp_path / "before", backbone_steps=3, **sizes)
    given = tmp_path / "my, backbone.safetensors"
    save_file(load_file(before), given)
    _, made = make(tmp_path / "made", backbone=str(given), **sizes)
    assert made.read_bytes() == before.read_bytes()
    with pytest.raises(UserError, match="another network"):
        make(tmp_path / "other", backbone=str(given), dim=32)


def test_a_backbone_counts_by_its_content_wherever_it_lies(tmp_path):
    (tmp_path / "before").mkdir()
    _, before = make(tmp_path / "before", **TINY)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(before.read_bytes())

    def identity(**settings):
        return world("mixture2d", **settings).teacher_plugin().identity()

    assert identity(backbone=str(copy)) == identity(backbone=str(before)) != identity()
    assert identity(backbone_steps=3) != identity()
    save_file({k: v + 1 for k, v in load_file(before).items()}, copy)
    assert identity(backbone=str(copy)) != identity(backbone=str(before))
    with pytest.raises(UserError, match=r"teacher\.backbone=.*: no such file"):
        identity(backbone=str(tmp_path / "nowhere"))


def test_what_has_no_closed_form_is_refused(tmp_path):
    runtime = world("digits", "closed-form")
    for work in (runtime.teacher, lambda: make_of(runtime, tmp_path)):
        with pytest.raises(UserError, match="teacher=closed-form: digits has no closed form"):
            work()


def make_of(runtime, folder):
    runtime.teacher_plugin().make(runtime.dataset(), folder, lambda share, words: None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone_step": 3}, r"teacher\.backbone_step: .*'backbone_steps'"),
        ({"dims": 3}, r"teacher\.dims: .*'dim'"),
        ({"guidance": -1.0}, r"teacher\.guidance=-1.0: must be at least 0"),
        ({"dim": 0}, r"teacher\.dim=0: must be at least 1"),
        ({"backbone_steps": "many"}, r"teacher\.backbone_steps=many"),
        ({"backbone_steps": -1}, "at least 0"),
        ({"depth": True}, r"teacher\.depth=True"),
    ],
)
def test_wrong_settings_are_explained(settings, words):
    with pytest.raises(UserError, match=words):
        world("mixture2d", **settings).teacher_plugin()
