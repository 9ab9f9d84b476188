"""A training run that is looked at while it runs, and what tells two states of modules apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.conformance.results import require
from piflow_bench.training.trainer import Trainer


def state_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by ``module.key``."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def parameters_of(modules: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    """Copies of every module's parameters, in its order."""
    return {n: [p.detach().clone() for p in m.parameters()] for n, m in modules.items()}


def buffers_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copies of all buffers, by ``module.key``."""
    return {f"{n}.{k}": b.clone() for n, m in modules.items() for k, b in m.named_buffers()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def first_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    """The first key whose values differ in any bit."""
    for key in sorted(a.keys() | b.keys()):
        if key not in a or key not in b or not _same(a[key], b[key]):
            return key
    return None


class Watched(Trainer):
    """A training run that notes gradients, and what each update changes that it should not."""

    def watch(self) -> None:
        """Start to look."""
        self.reached_modules: dict[str, set[str]] = {}
        self.gradients: list[tuple[str, Tensor]] = []
        self.before = parameters_of(self.modules)

    def _optimizer_step(self, name: str, progress: float) -> dict[str, Any]:
        reached = self.reached_modules.setdefault(name, set())
        own = self.built.optimizers[name].modules
        for module in own:
            grads = [p.grad for p in self.modules[module].parameters() if p.grad is not None]
            if any(bool(g.count_nonzero()) for g in grads):
                reached.add(module)
        flat = [p.grad.flatten() for p in self.trained[name] if p.grad is not None]
        self.gradients.append((name, torch.cat(flat).clone() if flat else torch.zeros(1)))
        for p in self.teacher.network.parameters():
            require(p.grad is None, f"the loss of update '{name}' sends gradient to the teacher")
            require(
                not p.requires_grad,
                f"the teacher's parameters require gradient during update '{name}': train a copy "
                "(copy.deepcopy(teacher.network))",
            )
        scalars = super()._optimizer_step(name, progress)
        after = parameters_of(self.modules)
        others = {m for o in self.built.optimizers.values() for m in o.modules} - set(own)
        for module in sorted(others):
            require(
                all(map(torch.equal, self.before[module], after[module])),
                f"update '{name}' changes the weights of '{module}', which is not its optimizer's",
            )
        self.before = after
        return scalars
