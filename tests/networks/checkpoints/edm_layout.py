"""EDM's networks as plain functions of a state dict, and random state dicts in their layout.

Written from the architectures' definitions (arXiv 2206.00364, appendix F.2; 2011.13456, appendix
H; 2105.05233), with nothing of the package: filters are full kernels, attention is a loop over
heads, and labels are one-hot rows.
"""

import math

import torch
from torch.nn import functional as f

FAMILIES = ("ddpmpp", "ncsnpp", "adm")


def taps(family):
    row = torch.tensor([1.0, 3, 3, 1] if family == "ncsnpp" else [1.0, 1])
    return (row[:, None] * row[None] / row.sum() ** 2)[None, None]


# ------------------------------------------------------------------ names and shapes


def layout(family, size, width, multiples, blocks, attention, classes=0, augment=0, outputs=3):
    """Name -> shape, in the order of the file; ``attention`` holds resolutions."""
    song, found = family != "adm", {}
    embedding = 4 * width
    features = 2 * width if family == "ncsnpp" else width
    sizes = [size >> i for i in range(len(multiples))]
    filters = tuple(taps(family).shape)

    def dense(name, rows, columns, bias=True):
        found[f"{name}.weight"] = (rows, columns)
        if bias:
            found[f"{name}.bias"] = (rows,)

    def conv(name, inputs, out, kernel, resampled=False):
        if kernel:
            found[f"{name}.weight"] = (out, inputs, kernel, kernel)
            found[f"{name}.bias"] = (out,)
        if resampled:
            found[f"{name}.resample_filter"] = filters

    def norm(name, channels):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (channels,)

    def block(name, inputs, out, attends=False, resampled=False):
        norm(f"{name}.norm0", inputs)
        conv(f"{name}.conv0", inputs, out, 3, resampled)
        dense(f"{name}.affine", out if song else 2 * out, embedding)
        norm(f"{name}.norm1", out)
        conv(f"{name}.conv1", out, out, 3)
        if inputs != out or resampled:
            conv(f"{name}.skip", inputs, out, 1 if song or inputs != out else 0, resampled)
        if attends:
            norm(f"{name}.norm2", out)
            conv(f"{name}.qkv", out, 3 * out, 1)
            conv(f"{name}.proj", out, out, 1)

    if family == "ncsnpp":
        found["map_noise.freqs"] = (features // 2,)
    if classes:
        dense("map_label", features if song else embedding, classes, bias=song)
    if augment:
        dense("map_augment", features, augment, bias=False)
    dense("map_layer0", embedding, features)
    dense("map_layer1", embedding, embedding)

    at = width if song else width * multiples[0]
    conv(f"enc.{size}x{size}_conv", 3, at, 3)
    kept, image = [at], 3
    for level, res in enumerate(sizes):
        if level:
            block(f"enc.{res}x{res}_down", at, at, resampled=True)
            if family == "ncsnpp":
                conv(f"enc.{res}x{res}_aux_residual", image, at, 3, True)
                image = at
            kept.append(at)
        for i in range(blocks):
            block(f"enc.{res}x{res}_block{i}", at, width * multiples[level], res in attention)
            at = width * multiples[level]
            kept.append(at)
    low = sizes[-1]
    block(f"dec.{low}x{low}_in0", at, at, True)
    block(f"dec.{low}x{low}_in1", at, at)
    for level, res in reversed(list(enumerate(sizes))):
        if res != low:
            block(f"dec.{res}x{res}_up", at, at, resampled=True)
        for i in range(blocks + 1):
            attends = res in attention and (not song or i == blocks)
            out = width * multiples[level]
            block(f"dec.{res}x{res}_block{i}", at + kept.pop(), out, attends)
            at = out
    end = f"dec.{size}x{size}_aux" if song else "out"
    norm(f"{end}_norm", at)
    conv(f"{end}_conv", at, outputs, 3)
    return found


def state_of(family, *facts, seed=0, std=0.2, **more):
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout(family, *facts, **more).items():
        if name.endswith("resample_filter"):
            state[name] = taps(family)
        else:
            state[name] = std * torch.randn(shape, generator=g)
            if "norm" in name and name.endswith("weight"):
                state[name] += 1
    return state


# ------------------------------------------------------------------ the function


def dense(state, name, x):
    bias = state.get(f"{name}.bias")
    y = x @ state[f"{name}.weight"].T
    return y if bias is None else y + bias


def conv(state, name, x):
    weight = state[f"{name}.weight"]
    return f.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def norm(state, name, x, eps):
    channels = x.shape[1]
    groups = min(32, channels // 4)
    parts = x.reshape(len(x), groups, -1)
    mean = parts.mean(-1, keepdim=True)
    variance = ((parts - mean) ** 2).mean(-1, keepdim=True)
    flat = ((parts - mean) / (variance + eps).sqrt()).reshape(x.shape)
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return flat * weight[:, None, None] + bias[:, None, None]


def smaller(x, kernel):
    one = kernel.expand(x.shape[1], 1, -1, -1)
    return f.conv2d(x, one, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=x.shape[1])


def larger(x, kernel):
    one = 4 * kernel.expand(x.shape[1], 1, -1, -1)
    side = (kernel.shape[-1] - 1) // 2
    return f.conv_transpose2d(x, one, stride=2, padding=side, groups=x.shape[1])


def attention(state, name, x, heads):
    joint = conv(state, f"{name}.qkv", x)
    batch, channels, rows, columns = x.shape
    each = channels // heads
    out = torch.empty_like(x)
    for b in range(batch):
        for head in range(heads):
            own = joint[b, 3 * each * head : 3 * each * (head + 1)].flatten(1)
            q, k, v = own[0::3], own[1::3], own[2::3]
            weights = torch.softmax(q.T @ k / math.sqrt(each), dim=1)
            out[b, each * head : each * (head + 1)] = (v @ weights.T).reshape(each, rows, columns)
    return conv(state, f"{name}.proj", out)


def block(state, name, x, embedding, family):
    song = family != "adm"
    eps, scale = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
    change = dense(state, f"{name}.affine", embedding)[..., None, None]

    def resized(x):
        if name.endswith("_down"):
            return smaller(x, taps(family).to(x))
        return larger(x, taps(family).to(x)) if name.endswith("_up") else x

    h = conv(state, f"{name}.conv0", resized(f.silu(norm(state, f"{name}.norm0", x, eps))))
    if song:
        h = norm(state, f"{name}.norm1", h + change, eps)
    else:
        half = change.shape[1] // 2
        h = norm(state, f"{name}.norm1", h, eps) * (change[:, :half] + 1) + change[:, half:]
    h = conv(state, f"{name}.conv1", f.silu(h))
    x = resized(x)
    if f"{name}.skip.weight" in state:
        x = conv(state, f"{name}.skip", x)
    x = (x + h) * scale
    if f"{name}.qkv.weight" in state:
        heads = 1 if song else x.shape[1] // 64
        x = (x + attention(state, name, norm(state, f"{name}.norm2", x, eps), heads)) * scale
    return x


def features_of(state, noise, labels, family):
    width = state["map_layer0.weight"].shape[1]
    if family == "ncsnpp":
        angle = 2 * math.pi * noise[:, None] * state["map_noise.freqs"]
    else:
        last = width // 2 - (family == "ddpmpp")
        rates = [(1 / 10000) ** (i / last) for i in range(width // 2)]
        angle = noise[:, None] * torch.tensor(rates, dtype=noise.dtype)
    pair = [angle.cos(), angle.sin()]
    if family == "adm":
        e = dense(state, "map_layer1", f.silu(dense(state, "map_layer0", torch.cat(pair, 1))))
        if "map_label.weight" in state:
            e = e + dense(state, "map_label", labels)
        return f.silu(e)
    e = torch.cat(pair[::-1], 1)
    if "map_label.weight" in state:
        e = e + dense(state, "map_label", labels * math.sqrt(labels.shape[1]))
    return f.silu(dense(state, "map_layer1", f.silu(dense(state, "map_layer0", e))))


def function(state, x, noise, labels, family):
    """The raw network of maps ``x``, noise conditions ``(B,)`` and one-hot ``labels``."""
    embedding = features_of(state, noise, labels, family)
    modules = list(dict.fromkeys(".".join(k.split(".")[:2]) for k in state))
    kept, image, h = [], x, x
    for name in (m for m in modules if m.startswith("enc.")):
        if name.endswith("_conv"):
            h = conv(state, name, h)
        elif name.endswith("_aux_residual"):
            weight = state[f"{name}.weight"]
            wide = f.conv2d(image, weight, padding=2)
            kernel = taps(family).to(x).expand(len(weight), 1, -1, -1)
            shrunk = f.conv2d(wide, kernel, stride=2, groups=len(weight))
            h = image = (h + shrunk + state[f"{name}.bias"][:, None, None]) / math.sqrt(2)
            kept.pop()
        else:
            h = block(state, name, h, embedding, family)
        kept.append(h)
    for name in (m for m in modules if m.startswith("dec.") and "_aux_" not in m):
        if "_block" in name:
            h = torch.cat([h, kept.pop()], dim=1)
        h = block(state, name, h, embedding, family)
    song = family != "adm"
    end = next(m for m in modules if m.endswith("_aux_conv"))[:-5] if song else "out"
    norm_name = f"{end}_norm" if song else "out_norm"
    return conv(
        state,
        f"{end}_conv" if song else "out_conv",
        f.silu(norm(state, norm_name, h, 1e-6 if song else 1e-5)),
    )
