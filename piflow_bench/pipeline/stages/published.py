"""Published weights in the place of a training's last checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_bench.contracts.teacher import Teacher
from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_json
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Inputs, Report
from piflow_bench.pipeline.stages.student import OfStudent, frame_of, spec_of, teacher_of
from piflow_bench.training.output import CHECKPOINTS_FILE, LOG_FILE, weights_file

WHOLE = "whole.json"
"""In the place of weights: a model that is used from where it lies, as large as its teacher."""


def source_of(weights: str, runtime: Runtime) -> str | None:
    """Where published weights of a digest are; None if no file has that content any more."""
    for source in runtime.students:
        if digest(local_path(source)) == weights:
            return source
    return None


def whole_model(folder: Path, runtime: Runtime) -> Path | None:
    """The model that a published artifact stands for; None where it holds weights itself.

    Raises:
        UserError: if the model is another one by now.
    """
    if not (folder / WHOLE).is_file():
        return None
    source = source_of(json.loads((folder / WHOLE).read_text())["weights"], runtime)
    if source is None:
        raise UserError("the files of a published model were changed; the same command plans anew")
    return local_path(source)


@dataclass(frozen=True, kw_only=True)
class Publish(OfStudent):
    """A published student's weights, in the place of a training's last checkpoint."""

    kind = "published"
    reads = ("teacher",)

    train_nfe: int | None
    train_seed: int
    weights: str
    """Digest of the file."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        source = source_of(self.weights, runtime)
        if source is None:
            raise UserError("the file of published weights was changed while it was in use")
        path, where = local_path(source), f"checkpoint={source}"
        if is_whole(path):
            numbers = self._stand_for(path, where, inputs, folder, runtime)
        else:
            numbers = self._keep(path, where, inputs, folder, runtime)
        spent = {
            "fraction": 1.0,
            "step": 0,
            "tfe": float("nan"),
            "images": 0,
            "seconds": 0.0,
            "flops": 0.0,
            "rows": {},
            "params": numbers,
            "ema_updates": 0,
        }
        (folder / CHECKPOINTS_FILE).write_text(json.dumps([spent]))
        (folder / LOG_FILE).write_text("")

    def check(self, frame: Teacher, runtime: Runtime) -> None:
        """Refuse weights of another network, by their headers: no value is read.

        Args:
            frame: the teacher, its network without values where that is not small.
            runtime: of this call.

        Raises:
            UserError: naming what they have otherwise, or what the method refuses.
        """
        from piflow_bench.files.weights import check_shapes, without_values

        source = source_of(self.weights, runtime)
        assert source is not None  # Its digest was taken a moment ago.
        path, where = local_path(source), f"checkpoint={source}"
        try:
            spec = spec_of(runtime, 1, 0, "cpu", self.train_nfe)
            network: Any = self.method_of(runtime).build(frame, spec).modules["student"]
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        except (NotImplementedError, RuntimeError):
            if without_values(frame.network):
                return  # Of a method that computes with the teacher's values: its stage looks.
            raise
        if is_whole(path):
            _models_place(network, where).check_model(path, where)
            return
        try:
            state = state_for(network, path, where)
        except (NotImplementedError, RuntimeError):
            if without_values(network):
                return  # Of a layout that is converted by its values, in a file without a header.
            raise
        check_shapes(network, state, where)

    def _keep(self, path: Path, where: str, inputs: Inputs, folder: Path, runtime: Runtime) -> int:
        """Write the weights under the network's own names; how many there are."""
        from safetensors.torch import save_file

        from piflow_bench.files.weights import load_into

        spec = spec_of(runtime, 1, 0, "cpu", self.train_nfe)
        built = self.method_of(runtime).build(teacher_of(inputs, runtime), spec)
        network: Any = built.modules["student"]
        state = state_for(network, path, where)
        load_into(network, {k: v.float() for k, v in state.items()}, where)
        save_file(network.state_dict(), weights_file(folder))
        return sum(p.numel() for p in network.parameters())

    def _stand_for(
        self, path: Path, where: str, inputs: Inputs, folder: Path, runtime: Runtime
    ) -> int:
        """Leave word of a whole model, by its content; how many weights it has."""
        from piflow_bench.files.weights import read_weights

        spec = spec_of(runtime, 1, 0, "cpu", self.train_nfe)
        built = self.method_of(runtime).build(frame_of(inputs, runtime), spec)
        _models_place(built.modules["student"], where).check_model(path, where)
        write_json(folder / WHOLE, {"weights": self.weights})
        return sum(v.numel() for v in read_weights(path, values=False).state.values())


def _models_place(network: Any, where: str) -> Any:
    """A student that can be a whole model."""
    if not hasattr(network, "use_model"):
        raise UserError(f"{where}: a whole model; method=few-step samples such")
    return network


def is_whole(path: Path) -> bool:
    """Whether a folder is a text-to-image model, or a pipeline with one, and no adapter."""
    from piflow_bench.networks.text_to_image.lora import LOADERS

    for place in (path / "transformer", path):
        if (place / "config.json").is_file():
            try:
                facts = json.loads((place / "config.json").read_text())
            except ValueError:
                return False
            # Adapters state the class of the network that they change, too.
            return facts.get("_class_name") in LOADERS and not _has_adapters(place)
    return False


def _has_adapters(folder: Path) -> bool:
    from piflow_bench.files.weights import read_weights
    from piflow_bench.networks.text_to_image.published import is_adapter

    return is_adapter(read_weights(folder, values=False).state)


def state_for(network: Any, path: Path, where: str) -> dict[str, Any]:
    """A published student's tensors under a network's names; of a frame's their shapes alone.

    Raises:
        UserError: if they are not of this network.
    """
    from piflow_bench.files.weights import read_weights, without_values
    from piflow_bench.networks.checkpoints.dit import dit_state
    from piflow_bench.networks.text_to_image.published import is_adapter, read_adapter

    if hasattr(network, "read_published"):
        found: dict[str, Any] | None = network.read_published(path, where)
        if found is not None:
            return found
    values = not without_values(network)
    state = read_weights(path, values).state
    if set(state) == set(network.state_dict()):  # As `Run.export` writes them.
        for name, module in network.named_modules():
            if hasattr(module, "shape_as"):  # Of the rank that it was trained with.
                start = f"{name}." if name else ""
                own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
                module.shape_as(own)
        return state
    state = (
        read_adapter(path, where, values=values).state
        if is_adapter(state)
        else dit_state(state, where)
    )
    if hasattr(network, "from_published"):
        try:
            return dict(network.from_published(state))
        except KeyError as error:
            raise UserError(f"{where}: of another network: {error.args[0]}") from error
    return state
