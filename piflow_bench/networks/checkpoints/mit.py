"""iMF checkpoints (arXiv 2512.02012), as the PyTorch branch of its repository stores them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.files.weights import State
from piflow_bench.networks.mit import Shape

_NAMES = (
    (r"^(?:.+\.)?net\.", ""),
    (r"\._flax_(linear|embedding)\.", "."),
    (r"_embedder\.mlp\.0\.", "_embedder.linear_1."),
    (r"_embedder\.mlp\.2\.", "_embedder.linear_2."),
    (r"\.(attn|mlp)_scale$", r".\1_gate"),  # Its later name.
)


def mit_state(state: State) -> State:
    """The tensors under this package's names; others keep theirs."""
    converted: State = {}
    for name, value in state.items():
        for pattern, own in _NAMES:
            name = re.sub(pattern, own, name)
        converted[name] = value
    return converted


def mit_shape(state: Mapping[str, Tensor], height: int, width: int, where: str) -> Shape:
    """The facts of a network by the sizes of its tensors (as from :func:`mit_state`).

    Raises:
        UserError: if it lacks one that says them.
    """

    def sizes(name: str) -> tuple[int, ...]:
        if name not in state:
            some = ", ".join(sorted(state)[:3])
            raise UserError(f"{where}: no transformer of iMF: lacks {name} (it has {some}, ...)")
        return tuple(state[name].shape)

    def blocks(part: str) -> int:
        found = {int(m[1]) for k in state if (m := re.match(rf"{part}\.(\d+)\.", k))}
        return max(found, default=-1) + 1

    dim, channels, patch, _ = sizes("x_embedder.proj.weight")
    return Shape(
        channels=channels,
        height=height,
        width=width,
        dim=dim,
        head=sizes("u_heads.0.attn.q_norm.weight")[0],
        inner=sizes("u_heads.0.mlp.w1.weight")[0],
        shared=blocks("shared_blocks"),
        own=blocks("u_heads"),
        patch=patch,
        classes=sizes("y_embedder.embedding_table.weight")[0] - 1,
        class_tokens=sizes("class_tokens")[0],
        guidance_tokens=sizes("omega_tokens")[0],
        interval_tokens=sizes("t_min_tokens")[0],
        time_tokens=sizes("time_tokens")[0],
    )
