"""Classes in the plane with exact guided teachers: rings2d, twomodes2d and submodes2d."""

import pytest
import torch

from piflow_bench import flow
from piflow_bench.config.compose import compose
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.teacher import solve
from piflow_bench.data import closed_form, rings2d, submodes2d, twomodes2d
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.modes import mode_coverage, rare_modes
from piflow_bench.pipeline.plan import make_plan
from tests.world import world

MODULES = pytest.mark.parametrize("module", [rings2d, twomodes2d, submodes2d], ids=lambda m: m.NAME)
TINY = {"backbone_steps": 2, "dim": 16, "depth": 1}
F64 = torch.float64


def shares(module):
    """Of every component in its class, ``(classes, components)``."""
    count, each = module.MEANS.shape[:2]
    return getattr(module, "SHARES", torch.full((count, each), 1 / each, dtype=F64))


def states(module, t, n=300, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 2, generator=generator, dtype=F64)
    return flow.interpolate(module.TRUTH.draw(seed, n).double(), noise, t)


def teacher(module, folder, **settings):
    folder.mkdir(exist_ok=True)
    runtime = world(module.NAME, **TINY, **settings)
    runtime.teacher_plugin().make(runtime.dataset(), folder, lambda share, words: None)
    return runtime.dataset(), runtime.teacher(folder)


@MODULES
@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_a_class_has_the_velocity_of_its_own_components(module, t):
    x, count = states(module, t), len(module.MEANS)
    labels = torch.arange(len(x)) % (count + 1)
    found = module.TRUTH.of_class(x, t, labels)
    for k in range(count + 1):
        means = module.MEANS[k] if k < count else module.MEANS.flatten(0, 1)
        weights = shares(module)[k] if k < count else shares(module).flatten() / count
        rows = labels == k
        alone = closed_form.mixture_velocity(x[rows], t, means, weights, module.STD)
        torch.testing.assert_close(found[rows], alone, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        module.TRUTH.velocity(x, t), module.TRUTH.of_class(x, t, torch.full_like(labels, count))
    )


@MODULES
def test_the_whole_is_what_its_classes_are_on_average(module):
    """E[x0 | x_t] of all is that of the classes, by how likely each is at x_t."""
    t, count = 0.5, len(module.MEANS)
    x = states(module, t)
    flat = module.MEANS.flatten(0, 1)
    weights = shares(module).flatten() / count
    _, _, logs = closed_form.posterior(x, t, flat, weights, module.STD)
    likely = logs.exp().reshape(len(x), count, -1).sum(2)
    each = torch.stack(
        [module.TRUTH.of_class(x, t, torch.full((len(x),), k)) for k in range(count)], 1
    )
    torch.testing.assert_close((likely[:, :, None] * each).sum(1), module.TRUTH.velocity(x, t))


@MODULES
def test_velocities_have_gradients_and_are_finite_everywhere(module):
    x = torch.tensor([[0.0, 0.0], [50.0, -50.0], [-1.0, 0.8]], dtype=F64, requires_grad=True)
    for t in (0.0, 1e-6, 0.5, 1.0):
        for k in range(len(module.MEANS) + 1):
            u = module.TRUTH.of_class(x, t, torch.full((3,), k))
            (gradient,) = torch.autograd.grad(u.sum(), x)
            assert u.isfinite().all() and gradient.isfinite().all(), (t, k)


@MODULES
def test_labels_are_of_the_points_and_every_component_is_drawn(module, tmp_path):
    dataset, _ = teacher(module, tmp_path / "a")
    labels = dataset.train_condition.labels
    centres = module.MEANS.mean(1)
    nearest = torch.cdist(dataset.train.double(), centres).argmin(1)
    assert (nearest == labels).double().mean() > 0.999
    assert labels.bincount().min() > 0.9 * len(labels) / len(centres)
    component = torch.cdist(dataset.train.double(), module.MEANS.flatten(0, 1)).argmin(1)
    drawn = component.bincount(minlength=shares(module).numel()) / len(component)
    expected = shares(module).flatten() / len(centres)
    off = (drawn - expected) / (expected * (1 - expected) / len(component)).sqrt()
    assert off.abs().max() < 4.5
    assert dataset.label_law == "balanced"
    assert dataset.conditions(5, range(9)).labels.tolist() == [i % len(centres) for i in range(9)]


@MODULES
def test_the_guided_teacher_is_exact(module, tmp_path):
    dataset, guided = teacher(module, tmp_path / "a", guidance=2.5)
    _, plain = teacher(module, tmp_path / "b")
    x, t = states(module, 0.6), torch.full((300,), 0.6, dtype=F64)
    condition = dataset.conditions(0, range(300))
    own = module.TRUTH.of_class(x, 0.6, condition.labels)
    torch.testing.assert_close(plain(x, t, condition), own)
    expected = module.TRUTH.velocity(x, 0.6) + 2.5 * (own - module.TRUTH.velocity(x, 0.6))
    torch.testing.assert_close(guided(x, t, condition), expected)


@MODULES
def test_its_ode_ends_in_the_data_of_the_class(module, tmp_path):
    dataset, plain = teacher(module, tmp_path / "a")
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    condition = dataset.conditions(0, range(400))
    end = solve(plain, noise, condition, 60)
    nearest = torch.cdist(end, module.MEANS.mean(1)).argmin(1)
    assert (nearest == condition.labels).double().mean() > 0.99
    distance = torch.cdist(end, module.MEANS.flatten(0, 1)).min(1).values / module.STD
    assert distance.square().mean().sqrt() == pytest.approx(2**0.5, rel=0.25)


def test_sub_modes_lie_apart_and_the_rarest_fill_no_more_than_their_share():
    """A sample is near one of them at most, and each class has two that count as rare."""
    flat, modes = submodes2d.MEANS.flatten(0, 1), submodes2d.MODES
    apart = torch.cdist(flat, flat) + 9 * torch.eye(len(flat))
    assert apart.min() >= 6 * submodes2d.STD - 1e-12
    assert (modes.weights.sum(), len(modes.weights)) == (pytest.approx(1), len(flat))
    rare = rare_modes(modes.weights).reshape(submodes2d.SHARES.shape)
    assert rare.tolist() == [[False, False, True, True]] * 2
    exact = submodes2d.TRUTH.draw(5, 40_000).numpy()
    found = mode_coverage(exact, modes.means, modes.std, modes.weights)
    assert found.rare == pytest.approx(1, abs=0.05) and found.share > 0.98


def test_the_start_is_told_classes_and_the_null_one(tmp_path):
    runtime = world("twomodes2d", backbone_steps=150, dim=32, depth=2)
    plugin, dataset = runtime.teacher_plugin(), runtime.dataset()
    plugin.make(dataset, tmp_path, lambda share, words: None)
    network = plugin.load(dataset, tmp_path / "network.safetensors").network
    x, t = states(twomodes2d, 0.5).float(), torch.full((300,), 0.5)
    errors = {}
    for k in range(3):
        labels = torch.full((300,), k)
        with torch.no_grad():
            found = network(x, t, Classes(labels, 2))
        for other in range(3):
            exact = twomodes2d.TRUTH.of_class(x, 0.5, torch.full((300,), other))
            errors[k, other] = float((found - exact).square().mean())
    for k in range(3):
        assert errors[k, k] == min(errors[k, other] for other in range(3))


@pytest.mark.parametrize("dataset", ["mixture2d", "checkerboard2d"])
def test_what_has_no_classes_is_not_guided(dataset):
    (config,) = compose(
        ["experiment=analytic_checkerboard2d", f"dataset={dataset}", "teacher.guidance=2"]
    )
    with pytest.raises(UserError, match=f"{dataset} has no classes to guide by"):
        make_plan(config)


def test_guidance_is_in_the_keys_where_it_is_on():
    def identity(**settings):
        return world("rings2d", **settings).teacher_plugin().identity()

    assert identity(guidance=1.0) == identity() != identity(guidance=2.0)
