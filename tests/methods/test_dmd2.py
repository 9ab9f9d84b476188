"""DMD2's generator gradient on Gaussians with known scores; where its other networks are asked."""

import math

import pytest
import torch
from piflow_methods.dmd2 import DMD2, Config
from piflow_methods.parts.fake_score import FakeScore, discriminator
from piflow_methods.parts.matching import matching_gradient, matching_loss
from piflow_methods.parts.noise_times import noise_time
from piflow_methods.parts.renoising import RenoisingStudent
from torch import nn

from piflow_bench.api import (
    Batch,
    Classes,
    Context,
    Guidance,
    Teacher,
    TrainingRandom,
    Unconditional,
    flow,
)
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mlp import MLP
from tests.methods import gaussian
from tests.methods.shipped import variants_of

LAWS = ("karras", "uniform", "logit-normal")


class AffineGenerator(nn.Module):
    """A velocity network whose one-step estimate is x0 = a z + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x, t, condition):
        return (x - (self.a * x + self.b)) / flow.expand(t, x)


class ExactFakeScore(nn.Module):
    """The exact velocity of the generator's present samples N(b, a^2)."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition, step):
        return gaussian.velocity(x, t, mu=self.b, s=abs(self.a)) + 0 * self.unused


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator_update(a, b, rows=512, **settings):
    method = DMD2(Config(gan=False, **settings))
    method.nfe = 1
    networks = {"student": AffineGenerator(a, b), "fake_score": ExactFakeScore(a, b)}
    batch, context = gaussian.setting(networks, rows=rows)
    updates = list(method.training_step(batch, context))
    assert [u.optimizer for u in updates] == ["student", "fake"]
    return networks["student"], updates[0], batch


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("a", "b"), [(1.2, -0.4), (0.3, 0.9)])
def test_generator_gradient_equals_its_closed_form(a, b, law):
    generator, update, batch = generator_update(a, b, time_law=law)
    update.loss.backward()

    rows, dim = batch.x0.shape
    z = TrainingRandom(5, 0, 0, rows).normal("noise", (dim,))
    x = a * z + b
    quantile = 0.02 + 0.96 * TrainingRandom(5, 0, 0, rows).uniform("matching time")
    t = noise_time(law, quantile)
    x_t = flow.interpolate(x, TrainingRandom(5, 0, 0, rows).normal("matching noise", (dim,)), t)
    real = gaussian.posterior_mean(x_t, t)
    fake = gaussian.posterior_mean(x_t, t, mu=b, s=a)
    g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    assert generator.b.grad.item() == pytest.approx((g.sum() / g.numel()).item(), abs=1e-8)
    assert generator.a.grad.item() == pytest.approx(((g * z).sum() / g.numel()).item(), abs=1e-8)


def test_gradient_vanishes_at_the_teachers_distribution():
    generator, update, _ = generator_update(gaussian.S, gaussian.MU)
    update.loss.backward()
    assert abs(generator.a.grad) < 1e-9 and abs(generator.b.grad) < 1e-9


def test_descent_reaches_the_teachers_distribution():
    a, b = 1.2, -0.4
    for _ in range(200):
        generator, update, _ = generator_update(a, b, rows=64)
        update.loss.backward()
        a -= 0.5 * generator.a.grad.item()
        b -= 0.5 * generator.b.grad.item()
    assert a == pytest.approx(gaussian.S, abs=0.05)
    assert b == pytest.approx(gaussian.MU, abs=0.05)


def test_matching_loss_has_the_gradient_it_was_given():
    x = torch.randn(4, 3, requires_grad=True)
    g = torch.randn(4, 3)
    matching_loss(x, g).backward()
    assert torch.allclose(x.grad, g / g.numel())


def test_nan_gradients_become_zero():
    x = torch.zeros(2, 3)
    assert (matching_gradient(x, x, x) == 0).all()


def test_karras_law_in_flow_time():
    assert noise_time("karras", torch.tensor([1.0])).item() == pytest.approx(80 / 81)
    median = noise_time("karras", torch.tensor([0.5])).item()
    assert median == pytest.approx(0.71, abs=0.01)  # sigma about 2.5
    assert noise_time("logit-normal", torch.tensor([0.5])).item() == pytest.approx(0.5)


def test_fake_score_updates_outnumber_the_generators():
    method = DMD2(Config(gan=False, ratio=3))
    method.nfe = 1
    kinds = []
    for step in range(6):
        networks = {"student": AffineGenerator(1.0, 0.0), "fake_score": ExactFakeScore(1.0, 0.0)}
        batch, context = gaussian.setting(networks, step=step)
        kinds += [u.optimizer for u in method.training_step(batch, context)]
    assert kinds.count("student") == 2 and kinds.count("fake") == 6


def test_backward_simulation_trains_only_the_chosen_step():
    method = DMD2(Config(gan=False, step_shift=1.0))
    method.nfe = 4
    calls = []

    class Recording(AffineGenerator):
        def forward(self, x, t, condition):
            calls.append((float(t[0]), torch.is_grad_enabled()))
            return super().forward(x, t, condition)

    network = Recording(1.0, 0.0)
    batch, context = gaussian.setting({"student": network})
    _, step = method.generate(batch, context)
    assert (step == calls[-1][0]).all()
    assert [t for t, _ in calls] == [1.0, 0.75, 0.5, 0.25][: len(calls)]
    assert [grad for _, grad in calls] == [False] * (len(calls) - 1) + [True]


def test_multistep_sampling_keeps_the_marginal():
    from piflow_bench.api import SampleRandom

    class Posterior(nn.Module):
        def forward(self, x, t, condition):
            # The exact flow map to data as an estimate: renoising then keeps every marginal.
            end = gaussian.flow_map(x, t, torch.zeros_like(t))
            return (x - end) / flow.expand(t, x)

    n = 4000
    noise = SampleRandom(0, range(n)).noise((1,)).double()
    x = RenoisingStudent(Posterior(), 1.0).sample(
        noise, Unconditional(n), 4, SampleRandom(0, range(n))
    )
    assert x.mean().item() == pytest.approx(gaussian.MU, abs=4 * gaussian.S / math.sqrt(n))
    assert x.std().item() == pytest.approx(gaussian.S, rel=0.05)


def test_the_fake_score_sees_the_step_only_if_asked():
    torch.manual_seed(0)
    x, t, rows = torch.randn(6, 2), torch.rand(6), Unconditional(6)
    early, late = torch.ones(6), torch.full((6,), 0.25)
    for knows in (False, True):
        fake = FakeScore(MLP(2, dim=32, depth=2), None, knows).double()
        if knows:
            torch.nn.init.normal_(fake.network.duration_embedder.linear_2.weight)
        torch.nn.init.normal_(fake.network.proj_out_2.weight)
        same = torch.equal(fake(x, t, rows, early), fake(x, t, rows, late))
        assert same is not knows


# ------------------------------------------------------------------ where the fake score is trained


def test_the_fake_score_is_trained_where_the_generator_asks_it():
    """At least half the matching law's density in each of its deciles, and all of its support."""
    experiments = {name: Config(**e.settings) for name, (_, e) in variants_of("dmd2").items()}
    assert {"digits: dmd2", "imagenet_1nfe_repa: dmd2-logit-normal"} <= set(experiments)
    settings = {law: Config(time_law=law) for law in LAWS} | experiments
    u, v = torch.rand(2, 100_000, generator=torch.Generator().manual_seed(0))
    for name, c in settings.items():
        matching, fake = c.matching_time(u), c.fake_time(v)
        edges = torch.quantile(matching, torch.linspace(0, 1, 11, dtype=matching.dtype))
        shares = torch.histogram(fake.double(), edges.double())[0] / len(fake)
        assert (shares >= 0.05).all(), (name, shares)
        ends = torch.tensor([0.0, 1.0])
        low, high = c.fake_time(ends)
        assert low <= c.matching_time(ends)[0] and c.matching_time(ends)[1] <= high, name


def test_the_fake_scores_law_can_be_set():
    ends = torch.tensor([0.0, 1.0])
    c = Config(time_law="karras", fake_time_law="uniform", fake_time_low=0.1, fake_time_high=0.9)
    assert c.fake_time(ends).tolist() == pytest.approx([0.1, 0.9])
    assert c.matching_time(ends).tolist() == noise_time("karras", 0.02 + 0.96 * ends).tolist()
    with pytest.raises(ValueError, match="time_low=0.5: must be below time_high=0.5"):
        Config(time_low=0.5, time_high=0.5)


# ------------------------------------------------------------------ the discriminator


def judge_of_four_blocks(share):
    torch.manual_seed(0)
    network = DiT(channels=1, height=8, dim=16, depth=4, heads=2, classes=3)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return FakeScore(network, share, False).double()


@pytest.mark.parametrize(("share", "blocks"), [(0.1, 1), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_the_discriminator_reaches_its_depth_and_no_deeper(share, blocks):
    fake = judge_of_four_blocks(share)
    asked = []
    for i, block in enumerate(fake.network.transformer_blocks):
        block.register_forward_hook(lambda *_, i=i: asked.append(i))
    x = torch.randn(6, 1, 8, 8, requires_grad=True)
    rows = Classes(torch.arange(6) % 3, 3)
    logits = fake(x, torch.rand(6), rows, torch.ones(6), judge=True)
    assert logits.shape == (6,) and asked == list(range(blocks))
    logits.sum().backward()
    assert x.grad.abs().sum() > 0
    reached = {n for n, p in fake.named_parameters() if p.grad is not None and p.grad.any()}
    deep = [f"network.transformer_blocks.{i}." for i in range(4)]
    for i, start in enumerate(deep):
        assert any(n.startswith(start) for n in reached) is (i < blocks)
    assert not any(n.startswith("network.proj_out") for n in reached)
    assert {n for n, _ in fake.named_parameters() if n.startswith("head.")} <= reached


def test_the_generators_gan_gradient_passes_no_deeper_block(monkeypatch):
    """Its gradient is the same whatever the blocks behind the discriminator hold."""

    def gradient(disturb):
        method = DMD2(Config(discriminator_depth=0.5))
        teacher = Teacher(judge_of_four_blocks(None).network, judge_of_four_blocks(None).network)
        spec_rows = Classes(torch.arange(8) % 3, 3)
        student, fake = judge_of_four_blocks(None).network, judge_of_four_blocks(0.5)
        student = student.requires_grad_(True)
        method.nfe = 1
        networks = {"student": student, "fake_score": fake}
        random = TrainingRandom(5, 0, 0, 8)
        batch = Batch(torch.randn(8, 1, 8, 8), spec_rows, (1, 8, 8))
        context = Context(0, 0.0, random, teacher, networks, networks)
        if disturb:
            with torch.no_grad():
                for block in fake.network.transformer_blocks[2:]:
                    for p in block.parameters():
                        p.mul_(-3)
        # The matching gradient alone asks the whole fake score.
        monkeypatch.setattr("piflow_methods.dmd2.matching_loss", lambda x, g: 0 * x.sum())
        next(method.training_step(batch, context)).loss.backward()
        context.thaw()
        assert all(p.grad is None for p in fake.parameters())
        return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    plain, disturbed = gradient(False), gradient(True)
    assert plain.norm() > 0 and torch.equal(plain, disturbed)


def test_every_question_to_the_discriminator_has_its_own_time_and_noise():
    asked = []

    class Noting(ExactFakeScore):
        def forward(self, x, t, condition, step, judge=False):
            asked.append((judge, x.detach(), t))
            return (x.sum(1) * self.unused) if judge else super().forward(x, t, condition, step)

    method = DMD2(Config(time_law="uniform"))
    method.nfe = 1
    networks = {"student": AffineGenerator(0.0, 0.7), "fake_score": Noting(1.0, 0.0)}
    batch, context = gaussian.setting(networks)
    for _ in method.training_step(batch, context):
        context.thaw()
    assert [judge for judge, _, _ in asked] == [False, True, False, True, True]
    times = torch.stack([t for _, _, t in asked])
    assert (torch.corrcoef(times) - torch.eye(5)).abs().max() < 0.5
    # The generator gives one point, so that what is left of its samples is their noise.
    noises = [(x - (1 - t[:, None]) * 0.7) / t[:, None] for _, x, t in asked[:4]]
    for i, a in enumerate(noises):
        for b in noises[:i]:
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.4


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (4, 8)])
def test_the_discriminators_stack_takes_any_grid(grid):
    head = discriminator(16, *grid)
    assert head(torch.randn(3, 16, *grid)).shape == (3, 1, 1, 1)
    assert len(head) == 4 + 3 * sum(min(grid) > size for size in (4, 8))


@pytest.mark.parametrize(
    "dim, groups", [(1152, 32), (384, 32), (320, 32), (96, 12), (64, 8), (7, 1)]
)
def test_norms_have_the_papers_groups_where_a_group_has_eight_channels(dim, groups):
    norm = discriminator(dim, 1, 1)[1]
    assert norm.num_groups == groups


def test_a_look_at_half_the_network_is_booked_as_half():
    from piflow_bench.costs.flops import Handle, Meter

    meter = Meter()
    handle = Handle("fake_score", judge_of_four_blocks(0.5), meter)
    x, rows = torch.randn(4, 1, 8, 8), Classes(torch.arange(4) % 3, 3)
    for judge in (False, True):
        handle(x, torch.rand(4), rows, torch.ones(4), judge=judge)
    whole, part = (meter.unit[f"fake_score{k}/grad"] for k in ("", ".judge"))
    head = 2 * 16 * (16 * 16 + 1)  # One 4 x 4 convolution, and the linear layer.
    assert part - head == pytest.approx(whole / 2, rel=0.1)


# ------------------------------------------------------------------ what it converges to


class _Guided(nn.Module):
    """The velocity of class N(1, 0.4^2), and of N(0, 1) without one."""

    def forward(self, x, t, condition):
        with_class = gaussian.velocity(x, t, mu=1.0, s=0.4)
        without = gaussian.velocity(x, t, mu=0.0, s=1.0)
        return torch.where((condition.labels == 0)[:, None], with_class, without)


@pytest.mark.parametrize(("w", "same"), [(1.0, True), (1.5, False)])
def test_the_guided_odes_end_is_its_optimum_without_guidance_only(w, same):
    """On Gaussians the guided ODE is linear: it ends in N(b, a^2), where the generator is put."""
    field = _Guided()
    teacher = Teacher(field, nn.Linear(1, 1), Guidance(w), closed_form=True)
    points = torch.tensor([[0.0], [1.0]])
    of_class = Classes(torch.zeros(2, dtype=torch.int64), 1)
    times = flow.time_grid(2000, dtype=torch.float64)
    b, b_and_a = flow.heun(lambda x, t: teacher(x, t, of_class), points, times)[:, 0].tolist()
    a = b_and_a - b
    expected = (0.4, 1.0) if same else (0.253, 1.184)
    assert (a, b) == pytest.approx(expected, abs=2e-3)

    rows, dim = 2048, 32  # Copies of it: the loss is divided by a mean over them.
    method = DMD2(Config(gan=False, time_law="logit-normal"))
    method.nfe = 1
    networks = {"student": AffineGenerator(a, b), "fake_score": ExactFakeScore(a, b)}
    batch = Batch(None, Classes(torch.zeros(rows, dtype=torch.int64), 1), (dim,))
    context = Context(0, 0.0, TrainingRandom(5, 0, 0, rows), teacher, networks, networks)
    next(method.training_step(batch, context)).loss.backward()
    slopes = networks["student"].a.grad.item(), networks["student"].b.grad.item()
    largest = max(map(abs, slopes))
    assert largest < 1e-5 if same else largest > 0.1


def test_edms_law():
    low, middle = noise_time("edm", torch.tensor([0.1586552, 0.5], dtype=torch.float64)).logit()
    assert (low.item(), middle.item()) == pytest.approx((-2.4, -1.2), abs=1e-5)
