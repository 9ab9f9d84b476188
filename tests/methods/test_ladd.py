"""Adversarial distillation: gradients with exact logits, heads on features, what is trained."""

import pytest
import torch
from piflow_methods.ladd import LADD, Config, keep_but_norms
from piflow_methods.parts.judges import FeatureJudge, deceiving_loss, judged_loss
from torch import nn

from piflow_bench.api import Batch, Classes, Context, Guidance, Teacher, TrainingRandom, flow
from piflow_bench.networks.dit import DiT
from tests.methods.test_dmd2 import AffineGenerator
from tests.methods.test_dmd2_switches import CLASS, STUDENTS, Field, guided

ROWS, DIM = 256, 3


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class ExactJudge(nn.Module):
    """The optimal logit of real N(1, 0.4^2) against samples N(b, a^2), noised to t; two heads."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b, self.shift = abs(a), b, nn.Parameter(torch.zeros(()))

    def forward(self, x, t, condition):
        alpha, t = (1 - t)[:, None], t[:, None]

        def log_density(mu, s):
            variance = alpha**2 * s**2 + t**2
            return (-(x - alpha * mu).square() / variance / 2 - variance.log() / 2).sum(1)

        logit = log_density(CLASS["mu"], CLASS["s"]) - log_density(self.b, self.a) + self.shift
        return torch.stack([logit, 2 * logit], 1)


def updates(a, b, w=1.0, **settings):
    method = LADD(Config(**{"real": "data", "r1": 0.0, **settings}))
    method.nfe = 1
    networks = {"student": AffineGenerator(a, b), "judge": ExactJudge(a, b)}
    teacher = Teacher(Field(), nn.Linear(1, 1), Guidance(w), closed_form=True)
    x0 = CLASS["mu"] + CLASS["s"] * torch.randn(
        ROWS, DIM, generator=torch.Generator().manual_seed(0)
    )
    batch = Batch(x0, Classes(torch.zeros(ROWS, dtype=torch.int64), 1), (DIM,))
    context = Context(0, 0.0, TrainingRandom(5, 0, 0, ROWS), teacher, networks, networks)
    for update in method.training_step(batch, context):
        update.loss.backward()
        yield update, networks, x0
        context.thaw()


def drawn(name, x):
    random = TrainingRandom(5, 0, 0, ROWS)
    t = random.normal(f"{name} time").sigmoid()
    return flow.interpolate(x, TrainingRandom(5, 0, 0, ROWS).normal(f"{name} noise", (DIM,)), t), t


@pytest.mark.parametrize("weight", [0.0, 2.5])
@pytest.mark.parametrize("student", STUDENTS)
def test_the_generators_gradient_has_its_closed_form(student, weight):
    a, b = student
    _, networks, _ = next(updates(a, b, w=2.5, distillation_weight=weight))
    z = TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,))
    x = a * z + b
    noisy, t = drawn("generator", x)
    alpha, level = (1 - t)[:, None], t[:, None]

    def score(mu, s):
        return -(noisy - alpha * mu) / (alpha**2 * s**2 + level**2)

    slope = score(CLASS["mu"], CLASS["s"]) - score(b, abs(a))  # Of the logit in the noised sample.
    logits = ExactJudge(a, b)(noisy, t, None).detach()
    heads = -torch.sigmoid(-logits) / logits.numel() * torch.tensor([1.0, 2.0])
    g = heads.sum(1, keepdim=True) * slope * alpha
    g = g + weight * 2 * (x - guided(noisy, t)) / x.numel()
    expected = ((g * z).sum().item(), g.sum().item())
    found = networks["student"].a.grad.item(), networks["student"].b.grad.item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_teachers_distribution_is_at_rest():
    _, networks, _ = next(updates(CLASS["s"], CLASS["mu"]))
    assert abs(networks["student"].a.grad) < 1e-9 and abs(networks["student"].b.grad) < 1e-9


def test_descent_reaches_the_real_distribution():
    a, b = 0.9, 0.2
    for _ in range(300):
        _, networks, _ = next(updates(a, b))
        a -= 0.3 * networks["student"].a.grad.item()
        b -= 0.3 * networks["student"].b.grad.item()
    assert (abs(a), b) == pytest.approx((CLASS["s"], CLASS["mu"]), abs=0.02)  # Noise has no sign.


def test_the_judges_loss_and_the_change_under_noise():
    (_, (update, networks, x0)) = updates(0.9, 0.2, r1=10.0)
    z = TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,))
    judge = ExactJudge(0.9, 0.2)
    fake, real = drawn("judged", 0.9 * z + 0.2), drawn("real", x0)
    logits = judge(*real, None)
    noise = TrainingRandom(5, 0, 0, ROWS).normal("r1 noise", (DIM,))
    change = (judge(real[0] + 0.1 * noise, real[1], None) - logits).square().mean()
    expected = judged_loss(logits, judge(*fake, None)) + 10 * change
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert update.scalars["r1"].item() == pytest.approx(change.item(), rel=1e-12)


def test_losses_by_hand():
    fake, real = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -3.0]])
    softplus = nn.functional.softplus
    expected = (softplus(fake) + softplus(-real)).mean()
    assert judged_loss(real, fake).item() == pytest.approx(expected.item())
    assert deceiving_loss(fake) == softplus(-fake).mean()


class TestFeatureJudge:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        network = DiT(channels=1, height=8, dim=16, depth=4, heads=2, classes=3)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
        return network.requires_grad_(False)

    def test_heads_at_their_depths_on_a_network_that_is_no_part_of_it(self, network):
        judge = FeatureJudge(network, (0.1, 0.5, 0.5, 1.0))
        assert judge.depths == [1, 2, 4]
        assert all(name.startswith("heads.") for name in judge.state_dict())
        x = torch.randn(5, 1, 8, 8, requires_grad=True)
        logits = judge(x, torch.rand(5), Classes(torch.arange(5) % 3, 3))
        assert logits.shape == (5, 3)
        logits.sum().backward()
        assert x.grad.abs().sum() > 0 and all(p.grad is None for p in network.parameters())

    def test_a_head_sees_no_deeper_block(self, network):
        judge = FeatureJudge(network, (0.5,))
        x, t, c = torch.randn(5, 1, 8, 8), torch.rand(5), Classes(torch.arange(5) % 3, 3)
        before = judge(x, t, c)
        for block in network.transformer_blocks[2:]:
            for p in block.parameters():
                p.mul_(-3)
        assert torch.equal(before, judge(x, t, c))


def test_what_is_left_to_be_trained():
    network = DiT(channels=1, height=8, dim=16, depth=4, heads=2, classes=3).requires_grad_(True)
    keep_but_norms(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    count = sum(p.numel() for p in network.parameters())
    share = sum(p.numel() for n, p in network.named_parameters() if n in trained) / count
    assert trained and not any("attn" in name or ".ff." in name for name in trained)
    assert 0.02 < share < 0.7


def test_settings():
    assert LADD(Config(real="data")).facts_for().needs_data
    assert not LADD(Config()).facts_for().needs_data
    with pytest.raises(ValueError, match="depths=.*: the judge looks through at least one"):
        Config(depths=())


def test_the_judge_looks_at_times_of_its_law():
    given = {"time_mean": 0.7, "time_std": 0.5, "time_shift": 3.0}
    (_, (update, _, x0)) = updates(0.9, 0.2, **given)

    def seen(name, x):
        t = TrainingRandom(5, 0, 0, ROWS).normal(f"{name} time")
        t = flow.warp((0.7 + 0.5 * t).sigmoid(), 3.0)
        noise = TrainingRandom(5, 0, 0, ROWS).normal(f"{name} noise", (DIM,))
        return flow.interpolate(x, noise, t), t

    x = 0.9 * TrainingRandom(5, 0, 0, ROWS).normal("noise", (DIM,)) + 0.2
    judge = ExactJudge(0.9, 0.2)
    expected = judged_loss(judge(*seen("real", x0), None), judge(*seen("judged", x), None))
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-12)
