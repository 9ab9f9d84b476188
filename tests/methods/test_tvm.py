"""TVM on Gaussian data: at rest at the exact map, by a derivative whose gradient is a difference's.

What is measured here is what the method says of itself: with the exact derivative no step moves the
rest, without it the map's scale moves by 5e-4 at the default step.
"""

import pytest
import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.derivatives import differenced_end
from piflow_methods.tvm import TVM, Config, Scaled, interval, labelled
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    SampleRandom,
    Spec,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.dit import DiT
from piflow_bench.precision import bfloat16
from tests.methods import gaussian


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Map(nn.Module):
    """theta times the exact average velocity, with what is off over no time and over some."""

    def __init__(self, theta=1.0, off=0.0, bend=0.0):
        super().__init__()
        for name, value in {"theta": theta, "off": off, "bend": bend}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value)))

    def add_duration(self):
        pass

    def forward(self, x, t, condition, duration):
        exact = gaussian.average_velocity(x, t, t - duration)
        bent = flow.expand((2 * duration).sin(), x)
        return self.theta * exact + self.off + self.bend * bent


def built(network, guidance=1.0, **settings):
    method = TVM(Config(**settings))
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    teacher = Teacher(gaussian.velocity, network, guidance, closed_form=True)
    return method, method.build(teacher, Spec((2,), None, 4, lambda: network, Unconditional(1)))


def step(student, average=None, condition=None, rows=256, number=0, guidance=1.0, **settings):
    """One step's update, its batch and noise; the average is the student, if no other is given."""
    method, made = built(student, guidance, **settings)
    student = made.modules["student"]
    networks = {"student": student, "average": made.modules["average"]}
    if average is not None:
        other = average if settings.get("distill", True) else Scaled(average, method.omega)
        networks["average"] = Average(other, method.config.decay)
    x0 = gaussian.MU + gaussian.S * torch.randn(
        rows, 2, generator=torch.Generator().manual_seed(number)
    )
    random = TrainingRandom(5, number, 0, rows)
    context = Context(number, 0.0, random, gaussian.teacher(), networks, networks)
    batch = Batch(x0, condition or Unconditional(rows), (2,))
    updates = method.training_step(batch, context)
    return next(updates), networks, batch, updates


def slopes(network, **given):
    """Of the loss in theta, off and bend."""
    update, networks, _, _ = step(network, **given)
    at = [p for p in networks["student"].parameters() if p.requires_grad]
    return torch.stack(torch.autograd.grad(update.loss, at))


def drawn(rows=256, number=0, **settings):
    """Noise, times t > s, and those of velocities, as a step draws them."""
    c, random = Config(**settings), TrainingRandom(5, number, 0, rows)
    gap = (c.gap_mean + c.gap_std * random.normal("gap")).sigmoid()
    t, s = interval(gap, random.uniform("end"), c.end_mean, c.end_std)
    now = (c.end_mean + c.end_std * random.normal("instant")).sigmoid()
    return random.normal("noise", (2,)), t, s, now


def ended(network, x, t, s):
    """X(s) and dX/ds, by torch's forward mode: it has gradients, as there is no layer norm."""

    def end(s):
        return x - flow.expand(t - s, x) * network(x, t, None, t - s)

    return torch.func.jvp(end, (s,), (torch.ones_like(s),))


# ------------------------------------------------------------------ the losses


@pytest.mark.parametrize("h", [0.2, 0.05])
def test_at_rest_at_the_exact_map_whatever_the_step(h):
    update, *_ = step(Map(), difference_step=h)
    assert update.scalars["terminal"] < 1e-20 and update.scalars["velocity"] < 1e-20
    assert slopes(Map(), difference_step=h).abs().max() < 1e-6


def test_at_rest_at_no_other_map():
    assert slopes(Map(theta=1.05))[0].abs() > 1e-3
    assert slopes(Map(off=0.05))[1].abs() > 1e-3
    update, *_ = step(Map(bend=0.05))
    assert update.scalars["terminal"] > 1e-5 and update.scalars["velocity"] < 1e-20
    assert slopes(Map(bend=0.05))[2].abs() > 1e-4


def wrong():
    return Map(theta=0.8, off=0.1, bend=0.3)


def test_losses_are_those_of_the_maps_end_and_of_velocities():
    """The end's target is the average's, where the student's map ends."""
    noise, t, s, now = drawn()
    update, _, batch, _ = step(wrong(), average=Map(theta=1.1))
    x = flow.interpolate(batch.x0, noise, t)
    end, moved = ended(wrong(), x, t, s)
    expected = (moved - 1.1 * gaussian.velocity(end, s)).square().mean()
    assert update.scalars["terminal"].item() == pytest.approx(expected.item(), rel=1e-9)
    x = flow.interpolate(batch.x0, noise, now)
    found = wrong()(x, now, None, 0 * now)
    expected = (found - gaussian.velocity(x, now)).square().mean()
    assert update.scalars["velocity"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert update.loss.item() == pytest.approx(sum(update.scalars[k].item() for k in PARTS))


PARTS = ("terminal", "velocity")


def true_slopes():
    """Gradients of the loss with one of the derivative that is exact."""
    noise, t, s, now = drawn()
    _, _, batch, _ = step(wrong())
    network = wrong()
    x = flow.interpolate(batch.x0, noise, t)
    end, moved = ended(network, x, t, s)
    terminal = (moved - gaussian.velocity(end, s).detach()).square().mean()
    x = flow.interpolate(batch.x0, noise, now)
    instant = network(x, now, None, 0 * now) - gaussian.velocity(x, now)
    loss = terminal + instant.square().mean()
    return torch.stack(torch.autograd.grad(loss, list(network.parameters())))


def test_gradients_run_through_the_derivative_and_are_of_second_order():
    exact = true_slopes()
    off = [
        (slopes(wrong(), average=Map(), difference_step=h) - exact).abs().max().item()
        for h in (0.1, 0.05, 0.025)
    ]
    assert off[1] < 4e-3 * exact.abs().max()
    assert all(larger / smaller > 3 for larger, smaller in zip(off, off[1:], strict=False))
    held = slopes(wrong(), average=Map(), difference_step=1e-6)
    assert (held - exact).abs().max() < 1e-6


def test_a_difference_for_a_derivative_moves_the_rest_by_second_order():
    """Newton's step in the map's scale from the exact map."""
    moved = []
    for h in (0.1, 0.05, 0.025):
        given = {"jvp": "finite-difference", "difference_step": h, "rows": 4096, "average": Map()}
        at, beside = slopes(Map(), **given)[0], slopes(Map(theta=1.001), **given)[0]
        moved.append(abs(0.001 * at / (beside - at)).item())
    assert moved[1] == pytest.approx(SHIFT, rel=0.2)
    assert all(2.5 < a / b < 5 for a, b in zip(moved, moved[1:], strict=False))


SHIFT = 5e-4


def test_values_outside_the_interval_are_taken_at_its_ends():
    x = torch.randn(4, 2)
    t, s = torch.tensor([0.9, 0.5, 1.0, 0.3]), torch.tensor([0.5, 0.01, 0.98, 0.15])
    asked = []

    class Seen(Map):
        def forward(self, x, t, condition, duration):
            asked.extend((t - duration).chunk(2))
            return super().forward(x, t, condition, duration)

    found = differenced_end(Seen(), x, t, s, Unconditional(4), 0.2)
    low, high = asked
    assert torch.allclose(low, torch.tensor([0.3, 0.0, 0.78, 0.0]))
    assert torch.allclose(high, torch.tensor([0.7, 0.21, 1.0, 0.3]))
    apart = gaussian.flow_map(x, t, high) - gaussian.flow_map(x, t, low)
    assert torch.allclose(found, apart / (high - low)[:, None])


# ------------------------------------------------------------------ bfloat16


def network():
    """A transformer whose average velocities differ by their ends, and inputs for it."""
    generator = torch.Generator().manual_seed(0)
    made = DiT(channels=1, height=4, dim=32, depth=2, heads=2, classes=3)
    made.add_duration()
    for p in made.parameters():
        scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.02
        nn.init.normal_(p, std=scale, generator=generator)
    x = torch.randn(64, 1, 4, 4, generator=generator)
    _, t, s, _ = drawn(64)
    return made, x, t.float(), s.float(), Classes(torch.arange(64) % 3, 3)


def test_in_bfloat16_the_derivative_is_exact_and_the_gradient_near():
    """A difference of bfloat16 values is off by its noise, 2 %, and so is its gradient."""
    torch.set_default_dtype(torch.float32)
    made, x, t, s, condition = network()
    inputs, context = (x, t, s, condition), gaussian.setting({"student": made})[1]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def found(jvp, half, precision="float32"):
        method = TVM(Config(jvp=jvp, derivative_precision=precision))
        with bfloat16("cpu", enabled=half):
            value = method._end(*inputs, context)[1]
        gradient = torch.autograd.grad((direction * value).sum(), list(made.parameters()))
        return value.detach().float(), torch.cat([g.flatten() for g in gradient])

    def off(a, b):
        return ((a - b).norm() / b.norm()).item()

    value, gradient = found("exact", half=False)
    halved, noisy = found("exact", half=True)
    assert off(halved, value) < 1e-5 < off(found("exact", True, "bfloat16")[0], value)
    assert 0.005 < off(noisy, gradient) < 0.1
    assert off(found("finite-difference", half=False)[0], value) < 1e-3
    assert 0.005 < off(found("finite-difference", half=True)[0], value) < 0.05


# ------------------------------------------------------------------ times


def test_intervals_have_their_lengths_and_ends_their_law_as_far_as_they_can():
    gap, quantile = torch.tensor([0.1, 0.5, 0.9, 0.3]), torch.tensor([0.2, 0.5, 0.9, 0.999999])
    t, s = interval(gap, quantile, -0.4, 1.5)
    assert torch.allclose(t - s, gap)

    def mass(s):
        return torch.special.ndtr((s.logit() + 0.4) / 1.5)

    assert torch.allclose(mass(s) / mass(1 - gap), quantile, atol=1e-9)
    assert 0.999 < t[3] <= 1


def test_times_are_of_these_laws():
    asked = {"student": [], "average": []}

    class Seen(Map):
        kept = "student"

        def forward(self, x, t, condition, duration):
            asked[self.kept].append((t, duration))
            return super().forward(x, t, condition, duration)

    average = Seen()
    average.kept = "average"
    settings = {"gap_mean": -1.0, "gap_std": 0.5, "end_mean": -0.6, "end_std": 0.7}
    step(Seen(), average=average, rows=8192, **settings)
    (now, none), (ends, no_time) = asked["student"][0], asked["average"][0]
    assert not none.any() and not no_time.any()
    assert now.logit().mean().item() == pytest.approx(-0.6, abs=0.03)
    assert now.logit().std().item() == pytest.approx(0.7, abs=0.03)
    t, span = next((t, d) for t, d in asked["student"] if len(d) == 8192 and d.any())
    assert span.logit().mean().item() == pytest.approx(-1.0, abs=0.03)
    assert span.logit().std().item() == pytest.approx(0.5, abs=0.03)
    assert t.max() <= 1 and torch.allclose(t - span, ends)
    short = ends[span < 0.15].logit()
    assert short.mean().item() == pytest.approx(-0.6, abs=0.05)
    assert short.std().item() == pytest.approx(0.7, abs=0.05)


# ------------------------------------------------------------------ from scratch


def test_from_scratch_the_mean_gradient_is_nothing_at_the_exact_map():
    found = torch.stack(
        [slopes(Map(), rows=4096, number=n, distill=False, class_dropout=0.0) for n in range(25)]
    )
    error = found.std(0) / 5
    assert (found.mean(0).abs() < 3 * error + 1e-12).all()
    wrong = torch.stack(
        [slopes(Map(off=0.1), rows=4096, number=n, distill=False) for n in range(4)]
    )
    assert (wrong[:, 1] > 30 * error[1]).all()


class Labelled(nn.Module):
    """One number where there is a label, another where there is none."""

    def __init__(self, known, empty):
        super().__init__()
        self.known, self.empty = nn.Parameter(torch.tensor(known)), torch.tensor(empty)

    def add_duration(self):
        pass

    def forward(self, x, t, condition, duration):
        known = flow.expand(labelled(condition, x).to(x), x)
        return known * self.known + (1 - known) * self.empty + 0 * x


@pytest.mark.parametrize("w", [3.0, 1.0])
def test_from_scratch_the_network_is_scaled_and_its_velocities_guided(w):
    """Rows that lost their label have a scale and a guidance of 1."""
    rows, condition = 512, Classes(torch.arange(512) % 3, 3)
    given = {"distill": False, "guidance": w, "class_dropout": 0.4, "condition": condition}
    update, _, batch, _ = step(Labelled(0.3, 0.7), average=Labelled(0.2, 0.5), rows=rows, **given)
    keep = TrainingRandom(5, 0, 0, rows).uniform("class dropout")[:, None] >= 0.4
    assert 0.5 < keep.double().mean() < 0.7
    v = drawn(rows)[0] - batch.x0
    target = torch.where(keep, w * v + (1 - w) * 0.5, v)
    error = torch.where(keep, (w * 0.3 - target) / w, 0.7 - target)
    assert update.scalars["velocity"].item() == pytest.approx(error.square().mean().item())
    error = torch.where(keep, 0.3 - 0.2, 0.7 - 0.5)
    assert update.scalars["terminal"].item() == pytest.approx(error.square().mean().item())


def test_guidance_is_the_teachers_and_holds_where_its_does():
    condition, rows = Classes(torch.arange(512) % 3, 3), 512
    given = {"distill": False, "class_dropout": 0.0, "condition": condition, "rows": rows}
    guidance = Guidance(3.0, 0.3, 0.6)
    update, _, batch, _ = step(Labelled(0.3, 0.7), guidance=guidance, **given)
    noise, _, _, now = drawn(rows)
    v, inside = noise - batch.x0, ((now >= 0.3) & (now <= 0.6))[:, None]
    error = 0.3 - torch.where(inside, 3 * v - 2 * 0.7, v) / 3
    assert update.scalars["velocity"].item() == pytest.approx(error.square().mean().item())


@pytest.mark.parametrize("guidance", [3.0, 0.5])
def test_without_labels_nothing_is_scaled_or_guided(guidance):
    guided, *_ = step(wrong(), distill=False, guidance=guidance)
    plain, *_ = step(wrong(), distill=False)
    assert guided.scalars == plain.scalars


def test_distilled_nothing_is_weighted_by_the_guidance():
    condition = Classes(torch.arange(256) % 3, 3)
    guided, *_ = step(wrong(), condition=condition, guidance=3.0)
    assert guided.scalars == step(wrong(), condition=condition)[0].scalars


def test_a_guidance_of_its_own_and_one_below_1_which_scales_nothing():
    for own, omega in {2.0: 2.0, 0.5: 1.0}.items():
        method = TVM(Config(distill=False, guidance=own))
        teacher = Teacher(gaussian.velocity, Map(), Guidance(3.0), closed_form=True)
        method.build(teacher, Spec((2,), None, 4, Map, Unconditional(1)))
        assert method.omega == omega and method.guidance.scale == own


# ------------------------------------------------------------------ what is built


def test_the_average_follows_after_the_step_and_has_no_gradient():
    update, networks, _, rest = step(Map(0.5), average=Map(1.5), decay=0.75)
    update.loss.backward()
    average = networks["average"].network
    assert average.theta.grad is None and average.theta == 1.5
    assert list(rest) == []
    assert average.theta.item() == pytest.approx(0.75 * 1.5 + 0.25 * 0.5)


@pytest.mark.parametrize("distill", [True, False])
@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_samples_of_the_map_are_its_ends(distill, nfe):
    """From scratch the network is scaled by the guidance."""
    exact = Map(theta=1.0 if distill else 0.25)
    _, made = built(exact, distill=distill, guidance=4.0)
    noise, condition = torch.randn(8, 2), Classes(torch.arange(8) % 3, 3)
    with torch.no_grad():
        found = made.student.sample(noise, condition, nfe, SampleRandom(0, range(8)))
    expected = gaussian.flow_map(noise, torch.ones(8), torch.zeros(8))
    assert (found - expected).abs().max() < 1e-12


def test_what_is_trained_and_what_follows():
    _, made = built(Map(), decay=0.5, lr=0.1, beta1=0.2, beta2=0.3, schedule="linear")
    optimizer = made.optimizers["student"]
    assert optimizer.modules == ("student",) and made.modules["average"].decay == 0.5
    assert (optimizer.lr, optimizer.betas, optimizer.schedule) == (0.1, (0.2, 0.3), "linear")


def test_facts_tell_the_track_and_the_derivative():
    distilled, scratch = TVM(Config()).facts_for(), TVM(Config(distill=False)).facts_for()
    assert distilled.needs_teacher and "teacher's guided velocity" in distilled.fidelity
    assert scratch.track == "from scratch" and not scratch.needs_teacher
    assert distilled.jvp == "exact"
    assert TVM(Config(jvp="finite-difference")).facts_for().jvp == "finite difference"
