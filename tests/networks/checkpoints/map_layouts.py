"""Tiny files of published flow maps, name by name, and what their networks compute.

Both are written from the descriptions of the architectures (DiT's and iMF's papers) and the names
and shapes in the sources that docs/checkpoints.csv cites; nothing here uses the package.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn import functional as F

DIM, DEPTH, HEADS, PATCH, CHANNELS, SIDE, CLASSES = 128, 3, 2, 2, 4, 8, 10
TOKENS = (SIDE // PATCH) ** 2
HANDOVER = 2


def linear(name, rows, columns, bias=True):
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def perceptron(name, middle=""):
    return linear(f"{name}.mlp.0{middle}", DIM, 256) | linear(f"{name}.mlp.2{middle}", DIM, DIM)


def dit_shapes(second):
    """DiT and SiT, with a second embedder of times or without."""
    found = {
        "pos_embed": (1, TOKENS, DIM),
        "x_embedder.proj.weight": (DIM, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (DIM,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, DIM),
        **perceptron("t_embedder"),
        **(perceptron(second) if second else {}),
        **linear("final_layer.linear", PATCH * PATCH * CHANNELS, DIM),
        **linear("final_layer.adaLN_modulation.1", 2 * DIM, DIM),
    }
    for i in range(DEPTH):
        found |= linear(f"blocks.{i}.attn.qkv", 3 * DIM, DIM)
        found |= linear(f"blocks.{i}.attn.proj", DIM, DIM)
        found |= linear(f"blocks.{i}.mlp.fc1", 4 * DIM, DIM)
        found |= linear(f"blocks.{i}.mlp.fc2", DIM, 4 * DIM)
        found |= linear(f"blocks.{i}.adaLN_modulation.1", 6 * DIM, DIM)
    return found


def mit_shapes(gate="gate"):
    """iMF without the second head, but for its last layer, as the conversion leaves it."""
    found = {
        "x_embedder.proj.weight": (DIM, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (DIM,),
        "y_embedder.embedding_table._flax_embedding.weight": (CLASSES + 1, DIM),
        "time_tokens": (4, DIM),
        "class_tokens": (8, DIM),
        "omega_tokens": (4, DIM),
        "t_min_tokens": (2, DIM),
        "t_max_tokens": (2, DIM),
    }
    for name in ("h", "omega", "cfg_t_start", "cfg_t_end"):
        found |= perceptron(f"{name}_embedder", "._flax_linear")
    inner = int(DIM * 8 / 3)
    for part, blocks in (("shared_blocks", 1), ("u_heads", 2)):
        for i in range(blocks):
            at = f"{part}.{i}"
            for name in "qkv":
                found |= linear(f"{at}.attn.{name}_proj._flax_linear", DIM, DIM, bias=False)
            found |= linear(f"{at}.attn.out_proj._flax_linear", DIM, DIM, bias=False)
            for name in "qk":
                found[f"{at}.attn.{name}_norm.weight"] = (DIM // HEADS,)
            for name in ("w1", "w3"):
                found |= linear(f"{at}.mlp.{name}._flax_linear", inner, DIM, bias=False)
            found |= linear(f"{at}.mlp.w2._flax_linear", DIM, inner, bias=False)
            for name in ("norm1.weight", "norm2.weight", f"attn_{gate}", f"mlp_{gate}"):
                found[f"{at}.{name}"] = (DIM,)
    for part in ("u_final_layer", "v_final_layer"):
        found[f"{part}.norm.weight"] = (DIM,)
        found |= linear(f"{part}.linear._flax_linear", PATCH * PATCH * CHANNELS, DIM)
    return {f"net.{name}": shape for name, shape in found.items()}


def table():
    """Sines and cosines of a patch's column, then of its row."""
    speed = 10000.0 ** -(np.arange(DIM // 4) / (DIM // 4))
    rows = []
    for row in range(SIDE // PATCH):
        for column in range(SIDE // PATCH):
            angles = [np.concatenate([f(at * speed) for f in (np.sin, np.cos)])
                      for at in (column, row)]  # fmt: skip
            rows.append(np.concatenate(angles))
    return torch.tensor(np.array(rows), dtype=torch.float32)[None]


def drawn(shapes, seed):
    g = torch.Generator().manual_seed(seed)
    state = {k: 0.15 * torch.randn(shape, generator=g) for k, shape in shapes.items()}
    for name in state:
        if "norm" in name:
            state[name] = 1 + state[name]
    return state | ({"pos_embed": table()} if "pos_embed" in shapes else {})


SHAPES = {
    "soflow": lambda: dit_shapes("s_embedder"),
    "meanflow": lambda: dit_shapes("r_embedder"),
    "dmf": lambda: dit_shapes(None),
    "imf": mit_shapes,
}


def content(layout, state, other=None):
    """What the file holds around the weights; other weights are those that are not meant."""
    other = other or {k: v + 1 for k, v in state.items()}
    if layout == "soflow":
        whole = [{f"network.{k}": v for k, v in s.items()} for s in (other, state)]
        return {"model": whole[0], "ema_model": whole[1], "finished_steps": 7,
                "optimizer": {"state": {}, "param_groups": []}, "finished_epochs": 1}  # fmt: skip
    if layout == "meanflow":
        return {"model": other, "ema": state, "opt": {}, "steps": 7,
                "args": argparse.Namespace(model="SiT-XL/2")}  # fmt: skip
    if layout == "dmf":
        return state | {"logvar_linear.weight": torch.zeros(1, 256),
                        "logvar_linear.bias": torch.zeros(1)}  # fmt: skip
    return dict(state)


# ------------------------------------------------------------------ what they compute


def waves(value):
    angle = value.double()[:, None] * 10000.0 ** -(torch.arange(128) / 128).double()
    return torch.cat([angle.cos(), angle.sin()], 1).float()


def embedded(state, name, value, middle=""):
    layers = [[state[f"{name}.mlp.{i}{middle}.{part}"] for part in ("weight", "bias")]
              for i in (0, 2)]  # fmt: skip
    return F.linear(F.silu(F.linear(waves(value), *layers[0])), *layers[1])


def patches(state, x):
    h = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=PATCH)
    return torch.stack([h[:, :, i, j] for i in range(4) for j in range(4)], 1)


def pictures(tokens):
    """Outputs of a patch lie as (row, column, channel)."""
    image = torch.zeros(len(tokens), CHANNELS, SIDE, SIDE)
    for n in range(TOKENS):
        i, j = divmod(n, SIDE // PATCH)
        part = tokens[:, n].reshape(-1, PATCH, PATCH, CHANNELS).permute(0, 3, 1, 2)
        image[:, :, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH] = part
    return image


def attended(q, k, v):
    """Heads of ``(B, T, DIM)``, one after the other."""
    out, width = [], DIM // HEADS
    for h in range(HEADS):
        at = slice(h * width, (h + 1) * width)
        score = q[..., at] @ k[..., at].transpose(1, 2) / width**0.5
        out.append(score.softmax(-1) @ v[..., at])
    return torch.cat(out, -1)


def dit_output(state, x, start, end):
    """A DiT whose first blocks have one conditioning and the others another."""

    def layer(name, h):
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(h, shift, scale):
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return h * (1 + scale[:, None]) + shift[:, None]

    h = patches(state, x) + table()
    for i in range(DEPTH):
        c = start if i < HANDOVER else end
        parts = layer(f"blocks.{i}.adaLN_modulation.1", F.silu(c)).split(DIM, 1)
        qkv = layer(f"blocks.{i}.attn.qkv", normed(h, parts[0], parts[1])).split(DIM, 2)
        h = h + parts[2][:, None] * layer(f"blocks.{i}.attn.proj", attended(*qkv))
        inside = layer(f"blocks.{i}.mlp.fc1", normed(h, parts[3], parts[4]))
        inside = F.gelu(inside, approximate="tanh")
        h = h + parts[5][:, None] * layer(f"blocks.{i}.mlp.fc2", inside)
    shift, scale = layer("final_layer.adaLN_modulation.1", F.silu(end)).split(DIM, 1)
    return pictures(layer("final_layer.linear", normed(h, shift, scale)))


def mit_output(state, x, duration, labels, told):
    s = {k.removeprefix("net.").replace("_scale", "_gate"): v for k, v in state.items()}
    flax, (w, low, high) = "._flax_linear", told

    def weight(name):
        return s[f"{name}{flax}.weight"]

    def rms(h, name):
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"]

    def same(value):
        return torch.full((len(x),), value)

    known = [
        s["class_tokens"] + s["y_embedder.embedding_table._flax_embedding.weight"][labels][:, None],
        s["omega_tokens"] + embedded(s, "omega_embedder", same(1 - 1 / w), flax)[:, None],
        s["t_min_tokens"] + embedded(s, "cfg_t_start_embedder", same(low), flax)[:, None],
        s["t_max_tokens"] + embedded(s, "cfg_t_end_embedder", same(high), flax)[:, None],
        s["time_tokens"] + embedded(s, "h_embedder", duration, flax)[:, None],
    ]
    h = torch.cat([*known, patches(s, x)], 1)
    width = DIM // HEADS
    angle = torch.arange(h.shape[1])[:, None] * 10000.0 ** -(torch.arange(0, width, 2) / width)
    turn = torch.polar(torch.ones_like(angle), angle)

    def rotated(q):
        pairs = torch.view_as_complex(q.reshape(*q.shape[:2], HEADS, -1, 2).contiguous())
        return torch.view_as_real(pairs * turn[:, None]).reshape(q.shape)

    def by_head(q, name):
        return rms(q.reshape(*q.shape[:2], HEADS, width), name).reshape(q.shape)

    for at in ("shared_blocks.0", "u_heads.0", "u_heads.1"):
        n = rms(h, f"{at}.norm1")
        q, k, v = (n @ weight(f"{at}.attn.{name}_proj").T for name in "qkv")
        q, k = (rotated(by_head(a, f"{at}.attn.{b}_norm")) for a, b in ((q, "q"), (k, "k")))
        out = attended(q, k, v) @ weight(f"{at}.attn.out_proj").T
        h = h + s[f"{at}.attn_gate"] * out
        n = rms(h, f"{at}.norm2")
        inside = F.silu(n @ weight(f"{at}.mlp.w1").T) * (n @ weight(f"{at}.mlp.w3").T)
        h = h + s[f"{at}.mlp_gate"] * (inside @ weight(f"{at}.mlp.w2").T)
    last = rms(h[:, -TOKENS:], "u_final_layer.norm")
    bias = s[f"u_final_layer.linear{flax}.bias"]
    return pictures(last @ weight("u_final_layer.linear").T + bias)


TOLD = (8.0, 0.4, 0.65)


def output(layout, state, x, t, r, labels):
    """The average velocity from t to r, both 1 at noise; label ``CLASSES`` is none."""
    if layout == "imf":
        return mit_output(state, x, t - r, labels, TOLD)
    label = state["y_embedder.embedding_table.weight"][labels]
    start = embedded(state, "t_embedder", t) + label
    if layout == "dmf":
        return dit_output(state, x, start, embedded(state, "t_embedder", r) + label)
    second = {"soflow": "s_embedder", "meanflow": "r_embedder"}[layout]
    both = start + embedded(state, second, t - r)
    return dit_output(state, x, both, both)


def decoded(layout, x):
    """Samples as the autoencoder's own latents, before any scale, as each repository has them."""
    if layout in ("soflow", "dmf"):
        return x / 0.18215
    mean = torch.tensor([0.86488, -0.27787343, 0.21616915, 0.3738409])[:, None, None]
    std = torch.tensor([4.85503674, 5.31922414, 3.93725398, 3.9870003])[:, None, None]
    if layout == "imf":
        return x * std + mean
    scale = 0.5 / std
    return (x + mean * scale) / scale
