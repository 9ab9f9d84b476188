"""pi-Flow on FLUX's and Qwen-Image's transformers against the official numbers."""

import copy
from types import SimpleNamespace

import pytest
import torch
from piflow_methods.piflow.heads import DXNetwork, GMNetwork
from piflow_methods.piflow.method import Config, PiFlow, PolicyStudent

from piflow_bench.api import Batch
from piflow_bench.networks.text_to_image.packing import places_first
from piflow_bench.networks.text_to_image.published import read_adapter, write_adapter
from tests.networks.text_to_image.tiny import CONDITION, DATA, KINDS, by_row, close, golden

STUDENTS = [
    ("flux", "gm"),
    ("flux", "dx"),
    ("qwen", "gm"),
    ("qwen", "dx"),
    ("qwen", "dxpoly"),
]


def settings(adapter, config, **other):
    """The recipe's settings, for the tiny networks."""
    policies = {"gm": "gm", "dx-grid": "dx-grid", "dx-polynomial": "dx-polynomial-as-published"}
    return Config(
        policy=policies[adapter.policy],
        components=adapter.components,
        shift=3.2,
        final_step_scale=0.5,
        logstd_inner=config["logstd_inner"],
        loss_scale=30.0,
        **other,
    )


def student(kind, which, **other):
    """The tiny transformer, the published student of it, and its settings."""
    tiny = golden(kind)
    adapter = read_adapter(DATA / f"{kind}_adapter_{which}", "student.checkpoint")
    c = settings(adapter, tiny.config, **other)
    tiny.base.adapt_with(tiny.config["rank"], 0.0)
    backbone = copy.deepcopy(tiny.base).requires_grad_(True)
    network = head(backbone, c)
    network.load_state_dict(network.from_published(adapter.state))
    return tiny, network, c


def head(backbone, c):
    if c.policy == "gm":
        return GMNetwork(backbone, c.components, c.init_noise, c.logstd_inner)
    return DXNetwork(backbone, c.components, c.policy == "dx-polynomial")


@torch.no_grad()
@pytest.mark.parametrize(("kind", "which"), STUDENTS)
def test_published_students_outputs_equal_the_official_ones(kind, which):
    tiny, network, _ = student(kind, which)
    out = by_row(tiny, network)
    if which != "gm":
        close(out["output"], tiny[f"{which}_out.u"])
        return
    for name, value in out.items():
        close(value, tiny[f"gm_out.unmerged.{name}"])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_folded_into_the_weights_give_the_official_numbers(kind):
    tiny, network, _ = student(kind, "gm")
    base, own = tiny.base.transformer, network.backbone.layers
    for name, layer in own.items():
        if hasattr(layer, "lora_A"):
            base.get_submodule(name).weight += layer.change()
            layer.lora_B.weight.zero_()
    for name, value in tiny.state("gm_merged_weight").items():
        close(base.get_submodule(name).weight, value)
    out = by_row(tiny, network)
    for name, value in out.items():
        close(value, tiny[f"gm_out.merged.{name}"])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_heads_start_as_the_official_ones_do(kind):
    tiny = golden(kind)
    config, base = tiny.config, tiny.base
    tiny.base.adapt_with(config["rank"], 0.0)
    k = config["K"]
    network = GMNetwork(copy.deepcopy(base), k, inner=config["logstd_inner"])
    official = tiny.state("gm_init")
    means = places_first(official["proj_out_means.weight"], k)
    assert torch.equal(network.proj_out_means.weight, means)
    for name in ("proj_out_logweights.weight", "proj_out_logstds.3.weight"):
        assert torch.equal(network.get_parameter(name), official[name])
    teacher = base.output_layer.bias.reshape(4, 1, -1)
    ours = network.proj_out_means.bias.reshape(4, k, -1) - teacher
    theirs = places_first(official["proj_out_means.bias"], k).reshape(4, k, -1) - teacher
    for jitter in (ours, theirs):
        assert (jitter - jitter[:1]).abs().max() < 1e-6, "shared over a patch's places"
        assert 0.03 < jitter.std() < 0.07
    out = by_row(tiny, network)
    for name in ("logweights", "logstds"):
        close(out[name], tiny[f"gm_init_out.{name}"])
    estimates = DXNetwork(copy.deepcopy(base), config["N"])
    for part in ("weight", "bias"):
        rows = places_first(tiny[f"dx_init.proj_out.{part}"], config["N"])
        assert torch.equal(estimates.get_parameter(f"proj_out_2.{part}"), rows)
    if "P" in config:
        estimates = DXNetwork(copy.deepcopy(base), config["P"], True)
        rows = places_first(tiny["dxpoly_init.proj_out.weight"], config["P"])
        assert torch.equal(estimates.proj_out_2.weight, rows)


def sampled(network, c, tiny, nfe=4, **settings):
    policy = PolicyStudent(network, c)
    states = []

    def watched(x, t, condition):
        states.append(x)
        return network(x, t, condition)

    x = policy.bind(watched).sample(tiny["in.noise"], CONDITION, nfe, None, **settings)
    return [*states[1:], x]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "which"), STUDENTS)
def test_samples_equal_the_official_ones(kind, which):
    tiny, network, c = student(kind, which)
    if which != "gm":
        close(sampled(network, c, tiny)[-1], tiny[f"{which}_sample.round.x0"], 3e-4)
        return
    for i, x in enumerate(sampled(network, c, tiny, temperature=0.3)):
        close(x, tiny[f"gm_sample.round.x_after_{i}"], 3e-4)
    plain = sampled(network, c, tiny, temperature=1.0)[-1]
    close(plain, tiny["gm_sample.round_no_temperature.x0"], 3e-4)
    if kind == "qwen":
        six = sampled(network, c, tiny, nfe=6, temperature=0.5)[-1]
        close(six, tiny["gm_sample_6nfe.round.x0"], 3e-4)


class Drawn:
    """The official run's draws in the place of our own, in the order they are consumed."""

    def __init__(self, tiny, tag):
        count = sum(k.startswith(f"{tag}.draw") for k in tiny.tensors)
        self.draws = [tiny[f"{tag}.draw{i}"] for i in range(count)]
        self.seen = {}

    def _next(self):
        return self.draws.pop(0)

    def uniform(self, name, shape=()):
        drawn = self._next()
        if name == "segment":  # tau' = 1 - U there, and an index counted from data.
            return 1 - drawn
        return drawn.reshape(2, *shape)

    def normal(self, name, shape):
        drawn = self._next()
        assert drawn.shape == (2, *shape)
        return drawn


TRAININGS = [
    ("flux", "gm", "train_data"),
    ("flux", "gm", "train_data_rho0"),
    ("flux", "gm", "train_datafree"),
    ("flux", "dx", "train_dx"),
    ("qwen", "gm", "train_data"),
    ("qwen", "gm", "train_datafree"),
    ("qwen", "dx", "train_dx"),
    ("qwen", "dxpoly", "train_dxpoly"),
]


@pytest.mark.parametrize(("kind", "which", "tag"), TRAININGS)
def test_a_training_step_equals_the_official_one(kind, which, tag):
    from piflow_bench import flow

    train = golden(kind).facts["train_cfg"]
    tiny, network, c = student(
        kind,
        which,
        states=train["num_intermediate_states"],
        window_substeps=train["window_substeps"],
        dropout=train["policy_dropout"],
        num_decay=train.get("num_decay_iters", 0),
        data_free=tag == "train_datafree",
    )
    asked = []

    def teacher(x, t, condition):
        with torch.no_grad():
            u = tiny.base(x, t, condition)
            if kind == "qwen":
                u = flow.guide(u, tiny.base(x, t, condition.null()), 4.0)
        asked.append((x, t, u))
        return u

    method = PiFlow(c)
    method.nfe = train["nfe"]
    random = Drawn(tiny, tag)
    facts = tiny.facts["train"][tag]
    context = SimpleNamespace(
        step=facts["iteration"],
        random=random,
        teacher=teacher,
        networks={"student": network},
    )
    network.train()
    losses = []
    for update in method.training_step(Batch(tiny["in.x0"], CONDITION, (16, 8, 10)), context):
        update.loss.backward()
        losses.append(update.loss.detach())
    assert not random.draws, "every draw of the official step was taken"
    for i, (x, t, _) in enumerate(asked):
        close(x, tiny[f"{tag}.round.x_a"][i], 1e-3)
        close(t, tiny[f"{tag}.round.t_a"][i], 1e-3)
    u = torch.stack([u for _, _, u in asked]).reshape(tiny[f"{tag}.round.u_teacher"].shape)
    close(u, tiny[f"{tag}.round.u_teacher"], 5e-3)
    official = facts["round"]["log_vars"]["loss_diffusion"]
    assert float(sum(losses)) == pytest.approx(official, rel=1e-4)
    compared = 0
    for name, expected in tiny.state(f"{tag}.round.grad").items():
        ours = gradient(network, name.replace(".default", ""), c.components)
        assert (ours - expected).norm() <= 2e-3 * expected.norm(), name
        compared += 1
    assert compared >= 3


def gradient(network, name, components):
    """Of a tensor under its official name, in its official order."""
    from piflow_bench.networks.text_to_image.packing import places_last

    own = dict(network.named_parameters())
    head, _, part = name.rpartition(".")
    for official, mine in (("proj_out", "proj_out_2"),):
        if head == official:
            return places_last(own[f"{mine}.{part}"].grad, components)
    if name in own:
        found = own[name].grad
        return places_last(found, components) if "means" in name or "logw" in name else found
    return own[f"backbone.{name}"].grad


@pytest.mark.parametrize(("kind", "which"), STUDENTS)
def test_an_adapter_is_written_as_it_was_published(kind, which, tmp_path):
    folder = DATA / f"{kind}_adapter_{which}"
    adapter = read_adapter(folder, "x")
    write_adapter(tmp_path, adapter.state, adapter.options, {"in_channels": 64})
    from safetensors import safe_open

    opened = [
        safe_open(p / "diffusion_pytorch_model.safetensors", "pt") for p in (folder, tmp_path)
    ]
    theirs, ours = opened
    assert ours.metadata() == theirs.metadata()
    assert set(ours.keys()) == set(theirs.keys())
    for name in theirs.keys():  # noqa: SIM118
        assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name)), name
