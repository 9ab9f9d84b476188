"""Checkpoints of every known layout give one network, or one clear line."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.contracts.condition import Classes
from piflow_bench.errors import UserError
from piflow_bench.files.weights import is_averaged, load_into, read_weights
from piflow_bench.networks.checkpoints.dit import Architecture, architecture, dit_state, load_dit
from piflow_bench.networks.embeddings import sincos_2d

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def official():
    """The official network's weights, its inputs, and its velocity."""
    tensors = load_file(DATA / "dit.safetensors")
    state = {k.removeprefix("teacher."): v for k, v in tensors.items() if k.startswith("teacher.")}
    x, t = tensors["x"], tensors["timestep"] / 1000
    return state, (x, t, Classes(tensors["class_labels"], 10)), tensors["teacher_out.u"]


def close(actual, expected):
    assert ((actual - expected).abs() <= 2e-5 * (1 + expected.abs())).all()


@torch.no_grad()
def velocity(path, inputs, **settings):
    network, digest, _ = load_dit(str(path), height=8, heads=2, **settings)
    assert len(digest) == 64 and all(p.dtype == torch.float32 for p in network.parameters())
    return network(*inputs)


@pytest.mark.parametrize("prefix", ["", "module.", "diffusion_ema.denoising."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_official_layout_whatever_its_prefix(official, tmp_path, prefix, suffix):
    state, inputs, expected = official
    named = {prefix + k: v for k, v in state.items()}
    path = tmp_path / f"teacher{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": named, "meta": {"iter": 7}}, path)
    else:
        save_file(named, path)
    close(velocity(path, inputs, units=1000), expected)


def test_averaged_weights_come_before_raw_ones_and_never_a_teachers(official, tmp_path):
    state, inputs, expected = official
    wrong = {k: v + 1 for k, v in state.items()}
    content = {f"diffusion.{k}": v for k, v in wrong.items()}
    content |= {f"teacher_ema.{k}": v for k, v in wrong.items()}
    content |= {f"diffusion_ema.{k}": v for k, v in state.items()}
    torch.save(content, tmp_path / "a.pth")
    close(velocity(tmp_path / "a.pth", inputs, units=1000), expected)
    torch.save({"model": wrong, "ema": state, "args": argparse.Namespace(lr=1)}, tmp_path / "b.pt")
    close(velocity(tmp_path / "b.pt", inputs, units=1000), expected)


@pytest.mark.parametrize(
    "name",
    [
        "ema",
        "ema_model",
        "model_ema",
        "ema_state_dict",
        "state_dict_ema",
        "params_ema",
        "ema_0.9999",
    ],
)
@pytest.mark.parametrize("raw", ["model", "state_dict"])
def test_averaged_weights_by_any_name_come_first_and_are_told(official, tmp_path, name, raw):
    state, inputs, expected = official
    wrong = {k: v + 1 for k, v in state.items()}
    torch.save({raw: wrong, "optimizer": {"ema": {"a": wrong}}, name: state}, tmp_path / "t.pth")
    close(velocity(tmp_path / "t.pth", inputs, units=1000), expected)
    assert load_dit(str(tmp_path / "t.pth"), height=8, heads=2).taken == name
    torch.save({name: {"module": state}, raw: wrong}, tmp_path / "n.pth")
    assert load_dit(str(tmp_path / "n.pth"), height=8, heads=2).taken == name


def test_one_set_of_weights_needs_no_word(official, tmp_path):
    for content in (official[0], {"state_dict": official[0], "step": 3}):
        torch.save(content, tmp_path / "t.pth")
        assert load_dit(str(tmp_path / "t.pth"), height=8, heads=2).taken == ""


def test_two_averaged_sets_are_refused_by_name(official, tmp_path):
    state = official[0]
    torch.save({"ema_0.99": state, "ema_0.9999": state, "model": state}, tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"several averaged sets.*ema_0\.99 and ema_0\.9999"):
        load_dit(str(tmp_path / "t.pth"), height=8, heads=2)
    flat = {f"{p}.{k}": v.clone() for p in ("net_ema", "ema_slow") for k, v in state.items()}
    save_file(flat, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=r"ema_slow\. and net_ema\."):
        load_dit(str(tmp_path / "t.safetensors"), height=8, heads=2)


def test_what_is_averaged():
    assert all(map(is_averaged, ["ema", "EMA", "model_ema", "net.ema", "ema-0.999"]))
    assert not any(map(is_averaged, ["schema", "model", "teacher_ema", "optimizer_ema", ""]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(official, tmp_path, value):
    state = {k: v.clone() for k, v in official[0].items()}
    state["proj_out_1.bias"][5] = value
    torch.save(state, tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"t\.pth: 1 of \d+ values of proj_out_1\.bias are not fin"):
        load_dit(str(tmp_path / "t.pth"), height=8, heads=2)


def test_half_precision_weights_become_masters_in_float32(official, tmp_path):
    state, inputs, expected = official
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "t.safetensors")
    found = velocity(tmp_path / "t.safetensors", inputs, units=1000)
    assert (found - expected).abs().max() < 0.02


def test_both_units_of_time_give_one_velocity(official, tmp_path):
    """The same function of t, trained with t in [0, 1] and with t in 0..1000."""
    state, (x, _, c), _ = official
    torch.save(state, tmp_path / "thousand.pth")
    t = torch.tensor([0.0, 0.3, 1.0])
    as_thousand = velocity(tmp_path / "thousand.pth", (x, t, c), units=1000)
    as_one = velocity(tmp_path / "thousand.pth", (x, 1000 * t, c), units=1)
    close(as_one, as_thousand)
    wrong = velocity(tmp_path / "thousand.pth", (x, t, c), units=1)
    assert (wrong - as_thousand).abs().max() > 1e-3


def test_reversed_time_is_the_negative_velocity_at_one_minus_t(official, tmp_path):
    state, (x, t, c), _ = official
    torch.save(state, tmp_path / "t.pth")
    forward = velocity(tmp_path / "t.pth", (x, 1 - t, c), units=1000)
    close(velocity(tmp_path / "t.pth", (x, t, c), units=1000, reverse=True), -forward)


# ------------------------------------------------------------------ diffusers, original


@pytest.fixture(scope="module")
def diffusers_model():
    """diffusers' own network; like all published ones its blocks share one embedding."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    ).eval()  # fmt: skip
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
        # diffusers shifts the frequencies by one channel; the DiT it was converted from does not.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return model


@torch.no_grad()
def diffusers_velocity(model, inputs):
    x, t, c = inputs
    return model(x, timestep=t * 1000, class_labels=c.labels).sample[:, :4]


def test_diffusers_layout_drops_variances_and_merges_embeddings(
    diffusers_model, official, tmp_path
):
    inputs = official[1]
    diffusers_model.save_pretrained(tmp_path / "dit")
    network, *_ = load_dit(str(tmp_path / "dit"), units=1000)  # Heads and size by config.json.
    with torch.no_grad():
        close(network(*inputs), diffusers_velocity(diffusers_model, inputs))
    diffusers_model.save_pretrained(tmp_path / "pipeline" / "transformer", max_shard_size="60KB")
    assert list((tmp_path / "pipeline" / "transformer").glob("*.index.json"))
    again, *_ = load_dit(str(tmp_path / "pipeline"), units=1000)
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_blocks_of_different_embeddings_are_refused(diffusers_model, tmp_path):
    state = {k: v.clone() for k, v in diffusers_model.state_dict().items()}
    state["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    save_file(state, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="blocks have different embeddings"):
        load_dit(str(tmp_path / "t.safetensors"), heads=2)


def as_original(model):
    """The names and joint projections of the original DiT's checkpoints."""
    state, out = model.state_dict(), {"pos_embed": sincos_2d(24, 4, 4).reshape(1, 16, 24)}
    out["projectors.0.0.weight"] = torch.zeros(3, 24)  # REPA's.
    emb = "transformer_blocks.0.norm1.emb"
    pairs = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": f"{emb}.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{emb}.timestep_embedder.linear_2",
        "final_layer.linear": "proj_out_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
    }
    for i in range(2):
        mine, theirs = f"transformer_blocks.{i}", f"blocks.{i}"
        pairs |= {
            f"{theirs}.attn.proj": f"{mine}.attn1.to_out.0",
            f"{theirs}.mlp.fc1": f"{mine}.ff.net.0.proj",
            f"{theirs}.mlp.fc2": f"{mine}.ff.net.2",
            f"{theirs}.adaLN_modulation.1": f"{mine}.norm1.linear",
        }
        for end in ("weight", "bias"):
            parts = [state[f"{mine}.attn1.to_{p}.{end}"] for p in "qkv"]
            out[f"{theirs}.attn.qkv.{end}"] = torch.cat(parts)
    for theirs, mine in pairs.items():
        for end in ("weight", "bias"):
            out[f"{theirs}.{end}"] = state[f"{mine}.{end}"]
    table = f"{emb}.class_embedder.embedding_table.weight"
    out["y_embedder.embedding_table.weight"] = state[table]
    return out


def test_original_layout(diffusers_model, official, tmp_path):
    inputs = official[1]
    torch.save({"ema": as_original(diffusers_model)}, tmp_path / "DiT.pt")
    close(
        velocity(tmp_path / "DiT.pt", inputs, units=1000),
        diffusers_velocity(diffusers_model, inputs),
    )


# ------------------------------------------------------------------ students


@pytest.mark.parametrize("head", ["gm", "dx"])
def test_published_students_load_into_what_the_method_builds(head, tmp_path):
    """In diffusers' folder layout; outputs as the official implementation's."""
    from piflow_methods.piflow.heads import DXNetwork, GMNetwork

    tensors = load_file(DATA / "dit.safetensors")
    facts = json.loads((DATA / "dit.json").read_text())
    start = f"{head}_student."
    state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    folder = tmp_path / "student"
    folder.mkdir()
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(facts))

    torch.save(
        {k.removeprefix("teacher."): v for k, v in tensors.items() if k.startswith("teacher.")},
        tmp_path / "teacher.pth",
    )
    network, *_ = load_dit(str(tmp_path / "teacher.pth"), units=1000, height=8, heads=2)
    if head == "gm":
        student = GMNetwork(network, facts["num_gaussians"], inner=facts["logstd_inner_dim"])
    else:
        student = DXNetwork(network, facts["n_grid"])
    loaded, config, _ = read_weights(folder)
    assert config["num_layers"] == 2
    load_into(student, student.from_published(dit_state(loaded)), "student")
    with torch.no_grad():
        c = Classes(tensors["class_labels"], 10)
        out = student(tensors["x"], tensors["timestep"] / 1000, c)
    expected = {"gm": ("means", "logweights", "logstds"), "dx": ("output",)}[head]
    for name in expected:
        close(out[name], tensors[f"{head}_out.{'u' if head == 'dx' else name}"])


# ------------------------------------------------------------------ refusals


class Payload:
    """Says so if it is ever unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a checkpoint's code was run",))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(UserError, match="plain tensors"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="plain tensors"):
        read_weights(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("proj_out_1.bias"), "lacks proj_out_1.bias"),
        (lambda s: s.update(extra=torch.zeros(2)), "has extra"),
        (lambda s: s.update({"proj_out_1.bias": torch.zeros(2)}), "proj_out_1.bias is"),
        (lambda s: s.pop("pos_embed.proj.weight"), "no patch embedding"),
        (lambda s: s.pop("emb.timestep_embedder.linear_1.weight"), "no class-conditional DiT"),
    ],
)
def test_other_weights_are_named(official, tmp_path, change, words):
    state = dict(official[0])
    change(state)
    torch.save(state, tmp_path / "t.pth")
    with pytest.raises(UserError, match=words):
        load_dit(str(tmp_path / "t.pth"), height=8, heads=2)


def test_truncated_files_and_missing_ones_are_named(official, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_dit(str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"no diffusion_pytorch_model\.safetensors"):
        load_dit(str(tmp_path))
    for name in ("t.pth", "t.safetensors"):
        path = tmp_path / name
        save_file(official[0], path) if name.endswith("s") else torch.save(official[0], path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(UserError, match=name):
            load_dit(str(path))
    with pytest.raises(UserError, match="give its heads"):
        torch.save(official[0], tmp_path / "u.pth")
        load_dit(str(tmp_path / "u.pth"), height=8)


# ------------------------------------------------------------------ names and shapes alone


def broken(path, *arguments, **options):
    raise AssertionError("values are read")


@pytest.mark.parametrize("kind", ["a.pth", "a.safetensors", "folder", "sharded"])
def test_names_and_shapes_are_read_without_values(
    official, diffusers_model, tmp_path, monkeypatch, kind
):
    path = tmp_path / kind
    if kind == "a.pth":
        torch.save({"model": {}, "model_ema": official[0], "raw": {"a": torch.ones(1)}}, path)
    elif kind == "a.safetensors":
        save_file(official[0], path)
    else:
        size = {"max_shard_size": "60KB"} if kind == "sharded" else {}
        diffusers_model.save_pretrained(path, **size)
    whole = read_weights(path)
    monkeypatch.setattr("piflow_bench.files.weights.load_file", broken)
    found = read_weights(path, values=False)
    assert all(v.is_meta for v in found.state.values())
    assert {k: v.shape for k, v in found.state.items()} == {
        k: v.shape for k, v in whole.state.items()
    }
    assert (found.facts, found.taken) == (whole.facts, whole.taken)
    assert architecture(dit_state(found.state), found.facts, 8, 2) == architecture(
        dit_state(whole.state), whole.facts, 8, 2
    )


def test_original_layout_by_shapes(diffusers_model, tmp_path):
    torch.save({"ema": as_original(diffusers_model)}, tmp_path / "DiT.pt")
    found = dit_state(read_weights(tmp_path / "DiT.pt", values=False).state)
    assert architecture(found, {}, 8, 2) == Architecture(4, 8, 24, 2, 2, 2, 10)


def test_shapes_of_files_that_are_none_are_refused_alike(official, tmp_path):
    for name in ("t.pth", "t.safetensors"):
        path = tmp_path / name
        with pytest.raises(UserError, match="no such file"):
            read_weights(path, values=False)
        save_file(official[0], path) if name.endswith("s") else torch.save(official[0], path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(UserError, match=name):
            read_weights(path, values=False)
    torch.save({"state_dict": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="plain tensors"):
        read_weights(tmp_path / "bad.pth", values=False)
