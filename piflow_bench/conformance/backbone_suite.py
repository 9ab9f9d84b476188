"""The contract of the network that students start from as tests, a part of it after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench import registry
from piflow_bench.conformance.results import Skip, Test, require
from piflow_bench.contracts.backbone import PARTS
from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.randomness import SampleRandom

MOVED = 0.05
"""Spread of what is added to the weights: many start at zero, where every fault is hidden."""
TOLERANCE = 1e-4
SEVERAL = 3
Inputs = tuple[Tensor, Tensor, Condition]


def needed_by(folders: Sequence[str]) -> dict[str, list[str]]:
    """Methods by the part of the network that they need as they are by default."""
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name, plugin in registry.find("method", folders).items():
        try:
            cls = plugin.load()
            needs = cls(cls.Config()).facts_for().backbone
        except Exception:  # Another's plugin, whose own check says what is wrong.
            continue
        for part in needs:
            found.setdefault(part, []).append(name)
    return found


def backbone_tests(
    network: Any, dataset: Dataset, methods: Mapping[str, Sequence[str]]
) -> Iterator[Test]:
    """A test of every part; of one that it has not, which of the methods it cannot serve."""
    checks: dict[str, Callable[[nn.Module, Dataset], str | None]] = {
        "heads": _heads,
        "duration": _duration,
        "guidance input": _guidance,
        "features": _features,
    }
    for part, members in PARTS.items():
        missing = [name for name in members if not hasattr(network, name)]
        if missing:
            yield part, partial(_lacking, missing, methods.get(part, ())), ()
        else:
            yield part, partial(checks[part], network, dataset), ()


def _lacking(missing: Sequence[str], methods: Sequence[str]) -> None:
    words = f"; cannot serve {', '.join(methods)}" if methods else ""
    raise Skip(f"the network has no {', '.join(missing)}{words}")


def _inputs(dataset: Dataset, n: int = 3) -> Inputs:
    """States, times and conditions of a few samples."""
    noise = SampleRandom(0, range(n)).noise(dataset.shape)
    return noise, torch.linspace(0.1, 0.9, n), dataset.conditions(0, range(n))


def _moved(network: nn.Module) -> Any:
    """A copy none of whose weights is at its start."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(MOVED * torch.randn(p.shape, generator=generator))
    return other


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * max(float(b.abs().max()), 1.0))


@torch.no_grad()
def _heads(network: nn.Module, dataset: Dataset) -> str:
    """Trunk and output layer are the network, and another head can take the layer's place."""
    net, (x, t, condition) = _moved(network), _inputs(dataset)
    b, channels, elements = len(x), net.channels, net.elements
    require(
        channels == dataset.shape[0],
        f"channels is {channels}, those of a sample are {dataset.shape[0]}",
    )
    hidden, embedding = net.trunk(x, t, condition)
    layer = net.output_layer
    require(
        isinstance(layer, nn.Linear | nn.Conv2d),
        f"output_layer is {type(layer).__name__}, not Linear or Conv2d",
    )
    out, width, axis = (
        (layer.out_features, layer.in_features, -1)
        if isinstance(layer, nn.Linear)
        else (layer.out_channels, layer.in_channels, 1)
    )
    require(
        width == net.dim and hidden.shape[axis] == net.dim,
        f"dim is {net.dim}, the hidden state {tuple(hidden.shape)}, and the output layer reads "
        f"{width}",
    )
    require(
        tuple(embedding.shape) == (b, net.embedding_dim),
        f"embedding_dim is {net.embedding_dim}, trunk() gives {tuple(embedding.shape)}",
    )
    require(
        out == elements * channels,
        f"output_layer has {out} outputs, not elements * channels = {elements} * {channels}",
    )
    plain = net.project(layer, hidden, 1)
    _of_shape(plain, (b, 1, *dataset.shape), "project(output_layer, hidden, 1)")
    whole = net.velocity(plain, x, t)
    _of_shape(whole, (b, 1, *dataset.shape), "velocity()")
    require(
        _close(whole[:, 0], net(x, t, condition)),
        "the network is not velocity(project(output_layer, hidden, 1), x, t)",
    )
    for taken in (channels, 1):
        head = _several(layer, elements, channels, taken)
        many = net.project(head, hidden, SEVERAL)
        expected = (b, SEVERAL, taken, *dataset.shape[1:])
        _of_shape(many, expected, f"project() of {SEVERAL} outputs of {taken} channels")
        for k in range(SEVERAL):
            require(
                _close(many[:, k], (k + 1) * plain[:, 0, :taken]),
                f"project() mixes several outputs: a layer's lie as (elements, n, C'), and output "
                f"{k} of {SEVERAL} is not that of its weights",
            )
    return f"{net.elements} elements, dim {net.dim}, embedding {net.embedding_dim}"


def _several(layer: nn.Module, elements: int, channels: int, taken: int) -> nn.Module:
    """The layer with ``SEVERAL`` outputs of its first channels: once, twice, thrice the same."""
    factors = torch.arange(1.0, SEVERAL + 1)

    def repeat(p: Tensor) -> nn.Parameter:
        each = p.unflatten(0, (elements, 1, channels))[:, :, :taken]
        scaled = each * factors.view(1, SEVERAL, 1, *[1] * (p.ndim - 1))
        return nn.Parameter(scaled.flatten(0, 2), requires_grad=False)

    head: Any = copy.deepcopy(layer)
    head.weight = repeat(head.weight)
    head.bias = None if head.bias is None else repeat(head.bias)
    if isinstance(head, nn.Linear):
        head.out_features = len(head.weight)
    else:
        head.out_channels = len(head.weight)
    return head


def _of_shape(x: Any, expected: tuple[int, ...], what: str) -> None:
    given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    require(given == expected, f"{what} gives {given}, not {expected}")


def _duration(network: nn.Module, dataset: Dataset) -> str:
    """The second time input changes nothing at first, and can be trained."""
    return _further("duration", _inputs(dataset)[1] / 2, network, dataset)


def _guidance(network: nn.Module, dataset: Dataset) -> str:
    """The same of guidance."""
    t = _inputs(dataset)[1]
    return _further("guidance", torch.stack([t / 2, t, 1 - t], 1), network, dataset, 3)


def _further(part: str, given: Tensor, network: nn.Module, dataset: Dataset, *inputs: int) -> str:
    """What ``add_PART()`` adds changes nothing at first, and can be trained."""
    net, (x, t, condition) = _moved(network), _inputs(dataset)
    known = {name for name, _ in net.named_parameters()}
    with torch.no_grad():
        before = net(x, t, condition)
        getattr(net, f"add_{part}")(*inputs)
        require(
            _close(net(x, t, condition), before), f"add_{part}() changes what the network gives"
        )
        require(
            _close(net(x, t, condition, **{part: given}), before),
            f"after add_{part}() a {part}= changes what the network gives before any training",
        )
    net.requires_grad_(True)
    net(x, t, condition, **{part: given}).square().mean().backward()
    new = {name: p for name, p in net.named_parameters() if name not in known}
    require(bool(new), f"add_{part}() adds no parameters")
    require(
        any(p.grad is not None and bool(p.grad.count_nonzero()) for p in new.values()),
        f"no gradient reaches what add_{part}() added: {part}= is ignored",
    )
    return f"{sum(p.numel() for p in new.values())} weights more"


@torch.no_grad()
def _features(network: nn.Module, dataset: Dataset) -> str:
    """Maps of the stated shapes at the first, the middle and the last depth."""
    net, (x, t, condition) = _moved(network), _inputs(dataset)
    require(type(net.depth) is int and net.depth > 0, f"depth is {net.depth!r}: a positive integer")
    depths = sorted({1, (net.depth + 1) // 2, net.depth})
    for depth in depths:
        found = net.features(x, t, condition, None, depth)
        stated = tuple(net.feature_shape(depth))
        _of_shape(found, (len(x), *stated), f"features() at depth {depth}")
        require(bool(found.isfinite().all()), f"features() at depth {depth} are not finite")
    return f"depths {', '.join(map(str, depths))} of {net.depth}"
