"""pi-Flow on Gaussian-mixture data, where an exact one-evaluation policy exists."""

import pytest
import torch
from piflow_methods.piflow.method import Config, PiFlow, PolicyStudent, make_policy, segments
from piflow_methods.piflow.policies import GMPolicy, substep_counts
from torch import nn

from piflow_bench.api import (
    Batch,
    Context,
    Guidance,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.mlp import MLP

MEANS = torch.tensor([[-1.0, 0.3], [0.8, 0.9], [0.2, -1.1]])
WEIGHTS = torch.tensor([0.6, 0.3, 0.1])
STD = 0.15


def components(x, t):
    """Posterior of x0 given x_t: component means (B, K, 2), variance (B,), log weights (B, K)."""
    t = t[:, None]
    alpha = 1 - t
    variance = alpha**2 * STD**2 + t**2
    offset = x[:, None] - alpha[:, None] * MEANS
    log_weights = (WEIGHTS.log() - offset.square().sum(2) / (2 * variance)).log_softmax(1)
    means = MEANS + (STD**2 * alpha / variance)[:, None] * offset
    return means, (STD**2 * t**2 / variance)[:, 0], log_weights


def velocity(x, t, condition=None):
    means, _, log_weights = components(x, t)
    return (x - (log_weights.exp()[..., None] * means).sum(1)) / t[:, None]


class ExactHead(nn.Module):
    """A network whose GM output is the exact posterior."""

    def forward(self, x, t, condition):
        means, variance, log_weights = components(x, t)
        return {
            "means": (x[:, None] - means) / t[:, None, None],
            "logstds": (variance.log() / 2 - t.log())[:, None, None],
            "logweights": log_weights[..., None],
        }


def exact_policy(x, t):
    out = ExactHead()(x, t, None)
    return GMPolicy(out["means"], out["logstds"], out["logweights"], x, t)


@pytest.mark.parametrize("t_src", [1.0, 0.8, 0.3])
def test_exact_head_gives_the_true_velocity_at_every_later_time(t_src):
    generator = torch.Generator().manual_seed(0)
    x_src = torch.randn(64, 2, generator=generator)
    policy = exact_policy(x_src, torch.full((64,), t_src))
    for share in (1.0, 0.9, 0.5, 0.2, 0.05):
        t = torch.full((64,), t_src * share)
        x = torch.randn(64, 2, generator=generator)
        assert (policy.velocity(x, t) - velocity(x, t)).abs().max() < 2e-4 / share


def test_one_evaluation_samples_like_the_fine_ode():
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    student = PolicyStudent(ExactHead(), Config(substeps=1024))
    x = student.sample(noise, Unconditional(200), 1, SampleRandom(0, range(200)))
    fine = flow.euler(velocity, noise, flow.time_grid(1024))
    assert (x - fine).abs().max() < 5e-3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window_substeps": 3},
        {"shift": 3.2, "final_step_scale": 0.5},
        {"data_free": True},
        {"data_free": True, "window_substeps": 3, "shift": 3.2},
    ],
)
@pytest.mark.parametrize("nfe", [1, 4])
def test_loss_of_the_exact_student_vanishes(settings, nfe):
    updates = exact_updates(nfe, states=3, **settings)
    assert len(updates) == (nfe if settings.get("data_free") else 1)
    assert [u.step for u in updates] == [False] * (len(updates) - 1) + [True]
    # Windows compare a mean with a local velocity: exact only as the window shrinks.
    tolerance = 5e-2 if settings.get("window_substeps") else 1e-4
    for update in updates:
        assert update.scalars["loss"] < tolerance


@pytest.mark.parametrize("data_free", [False, True])
def test_mixed_path_follows_the_teacher(data_free):
    # With the teacher's share at 1 the prediction is a mean over the teacher's Euler steps, so even
    # the exact student keeps a loss, which shrinks with the steps' length.
    losses = []
    for states in (4, 64):
        (update, *_) = exact_updates(1, states=states, num_decay=10**9, data_free=data_free)
        losses.append(float(update.scalars["loss"]))
    assert 1e-4 < losses[1] < losses[0] / 5


def exact_updates(nfe, **settings):
    """The updates of one step, with the exact student as the network."""
    method = PiFlow(Config(components=3, dropout=0.0, substeps=512, **settings))
    method.nfe = nfe
    network = ExactHead()
    teacher = Teacher(velocity, nn.Linear(1, 1), closed_form=True)
    generator = torch.Generator().manual_seed(2)
    pick = torch.multinomial(WEIGHTS, 256, replacement=True, generator=generator)
    x0 = MEANS[pick] + STD * torch.randn(256, 2, generator=generator)
    batch = Batch(x0, Unconditional(256), (2,))
    random = TrainingRandom(0, 7, 0, 256)
    context = Context(7, 0.0, random, teacher, {"student": network}, {"student": network})
    return list(method.training_step(batch, context))


def test_segments_cover_the_unit_interval():
    for nfe, scale in ((1, 1.0), (4, 1.0), (4, 0.5), (8, 0.5)):
        table = segments(nfe, scale)
        assert sum(length for _, length in table) == pytest.approx(1)
        assert table[-1][0] == pytest.approx(1)
        assert table[0][1] == pytest.approx(scale * (table[-1][1] if nfe > 1 else 1))
        schedule = flow.flow_map_schedule(nfe, 1.0, scale)
        sources = [s.raw_src for s in schedule]
        assert sources == pytest.approx([source for source, _ in reversed(table)])


def test_finished_samples_rest():
    raw_from, raw_to = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.49])
    assert substep_counts(raw_from, raw_to, 32).tolist() == [32, 1]
    x = torch.randn(2, 2)
    policy = exact_policy(x, raw_from)
    both = policy.rollout(x, raw_from, raw_to, 32)
    alone = exact_policy(x[1:], raw_from[1:]).rollout(x[1:], raw_from[1:], raw_to[1:], 32)
    assert torch.allclose(both[1:], alone, atol=1e-6)


def test_dropout_keeps_all_where_all_would_go():
    policy = exact_policy(torch.randn(3, 2), torch.ones(3))
    drop = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    weights = policy.with_dropout(drop).logweights.exp()[..., 0]
    before = policy.logweights.exp()[..., 0]
    assert torch.allclose(weights[0], before[0]) and torch.allclose(weights[2], before[2])
    assert weights[1, 0] == 0 and weights[1].sum().item() == pytest.approx(1)


def test_gradient_comes_from_the_policy_not_from_the_rollout():
    torch.manual_seed(0)
    teacher = Teacher(velocity, MLP(dim=16, depth=1), closed_form=True)
    method = PiFlow(Config(components=3, substeps=16, logstd_inner=8))
    built = method.build(teacher, Spec((2,), 2, 32, lambda: MLP(dim=16, depth=1), Unconditional(1)))
    network = built.modules["student"]
    batch = Batch(torch.randn(32, 2), Unconditional(32), (2,))
    context = Context(
        0, 0.0, TrainingRandom(0, 0, 0, 32), teacher, {"student": network}, built.modules
    )
    (update,) = method.training_step(batch, context)
    update.loss.backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for n, p in trained.items() if "logstds.1" not in n)
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == {
        "backbone.proj_out_2.weight", "backbone.proj_out_2.bias"
    }  # fmt: skip
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_renoising_sampler_keeps_the_distribution():
    noise = SampleRandom(0, range(2000)).noise((2,))
    for h in (1.0, float("inf")):
        student = PolicyStudent(ExactHead(), Config(substeps=128, h=h))
        x = student.sample(noise, Unconditional(2000), 4, SampleRandom(0, range(2000)))
        nearest = (x[:, None] - MEANS).square().sum(2).argmin(1)
        share = torch.bincount(nearest, minlength=3) / 2000
        assert (share - WEIGHTS).abs().max() < 0.05


@pytest.mark.parametrize(
    ("policy", "sampling", "words"),
    [
        ("gm", {"temperature": 0.5, "substeps": 32}, None),
        ("dx-grid", {"substeps": 32, "final_step_scale": 0.5}, None),
        ("dx-grid", {"temperature": 0.5}, "temperature is of policy=gm"),
        ("arc", {"temperature": 0.5}, "temperature is of policy=gm"),
        ("arc", {"substeps": 32}, "no substeps"),
        ("arc", {"final_step_scale": 0.5}, None),
    ],
)
def test_ways_of_sampling_that_would_be_one_are_refused(policy, sampling, words):
    refused = PiFlow(Config(policy=policy)).samples_with(sampling, 2, Guidance())
    assert (refused is None) if words is None else words in refused


def asked_of_the_teacher(nfe=1, components=3, **settings):
    """Times and states of all questions, and the updates."""
    asked = []

    def noting(x, t, condition=None):
        asked.append((x, t))
        return velocity(x, t)

    method = PiFlow(Config(components=components, substeps=512, **settings))
    method.nfe = nfe
    x0 = torch.randn(4096, 2, generator=torch.Generator().manual_seed(2))
    network = {"student": ExactHead()}
    teacher = Teacher(noting, nn.Linear(1, 1), closed_form=True)
    context = Context(7, 0.0, TrainingRandom(0, 7, 0, 4096), teacher, network, network)
    updates = list(method.training_step(Batch(x0, Unconditional(4096), (2,)), context))
    return asked, x0, updates


def test_a_segments_start_is_noised_data_and_as_probable_as_it_is_long():
    seen = []

    class Noting(ExactHead):
        def forward(self, x, t, condition):
            seen.append((x, t))
            return super().forward(x, t, condition)

    method = PiFlow(Config(components=3, shift=3.0, final_step_scale=0.5, substeps=16))
    method.nfe = 2
    x0, network = torch.randn(4096, 2), {"student": Noting()}
    teacher = Teacher(velocity, nn.Linear(1, 1), closed_form=True)
    context = Context(0, 0.0, TrainingRandom(0, 0, 0, 4096), teacher, network, network)
    next(method.training_step(Batch(x0, Unconditional(4096), (2,)), context))
    ((x, t),) = seen
    noise = TrainingRandom(0, 0, 0, 4096).normal("noise", (2,))
    assert torch.allclose(x, flow.interpolate(x0, noise, t))
    assert (t < 1).float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    assert t.min().item() == pytest.approx(flow.warp(torch.tensor(1 / 3), 3.0).item())


def test_the_teachers_part_of_a_path_is_its_eulers_steps():
    asked, *_ = asked_of_the_teacher(states=4, num_decay=10**9, dropout=0.0)
    for (x, t), (y, s) in zip(asked[:-1], asked[1:], strict=True):
        assert (s < t).all()
        assert torch.allclose(y, x + flow.expand(s - t, x) * velocity(x, t), atol=1e-4)


def test_a_windows_mean_is_off_by_first_order_in_its_length():
    losses = [float(exact_updates(1, window_substeps=w)[0].scalars["loss"]) for w in (8, 16, 32)]
    assert losses[0] > 1e-4
    for smaller, larger in zip(losses[:-1], losses[1:], strict=True):
        assert larger / smaller == pytest.approx(4, rel=0.3)


def test_components_are_dropped_by_their_share(monkeypatch):
    dropped = []
    monkeypatch.setattr(
        GMPolicy, "with_dropout", lambda self, drop: dropped.append(drop.float().mean()) or self
    )
    asked_of_the_teacher(dropout=0.2)
    assert [float(share) for share in dropped] == pytest.approx([0.2], abs=0.02)


def test_without_data_a_segment_counts_by_its_length():
    class Fixed(PiFlow):
        def _segment_loss(self, x, *given):
            return x.new_ones(()), x

    method = Fixed(Config(data_free=True, final_step_scale=0.5))
    method.nfe = 2
    batch = Batch(None, Unconditional(4), (2,))
    context = Context(0, 0.0, TrainingRandom(0, 0, 0, 4), None, {}, {})
    losses = [float(update.loss) for update in method.training_step(batch, context)]
    assert losses == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("h", [0.0, 1.0])
def test_sampled_policies_span_the_segments_of_training(monkeypatch, h):
    spans = []

    def noting(config, output, x, t, span):
        spans.append(span)
        return make_policy(config, output, x, t, span)

    monkeypatch.setattr("piflow_methods.piflow.method.make_policy", noting)
    student = PolicyStudent(ExactHead(), Config(substeps=8, h=h, final_step_scale=0.5))
    student.sample(torch.randn(4, 2), Unconditional(4), 4, SampleRandom(0, range(4)))
    assert spans[::-1] == pytest.approx([length for _, length in segments(4, 0.5)])
