"""Published weights in a training's place: files, and whole models that stay where they lie."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.contracts.teacher import Teacher
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.pipeline.stages.published import Publish, is_whole, source_of, whole_model
from piflow_bench.training.output import log_rows, weights_file
from tests.pipeline.stages import made

GIVEN = {**made.WORLD, "method": "kd", "version": 3, "train_nfe": 1, "train_seed": 0}


def publish(path, folder):
    """The stage of a file's weights, run in a folder."""
    task = Publish(**GIVEN, settings={}, weights=digest(path))
    task.run({}, folder, made.runtime(students=(str(path),)), made.silent)


def test_published_weights_are_those_of_a_training_that_spent_nothing(tmp_path):
    save_file({"w": torch.tensor([[0.25]], dtype=torch.float16)}, tmp_path / "given.safetensors")
    folder = tmp_path / "stage"
    folder.mkdir()
    publish(tmp_path / "given.safetensors", folder)
    state = load_file(weights_file(folder))
    assert state["w"].item() == 0.25 and state["w"].dtype == torch.float32
    (spent,) = json.loads((folder / "checkpoints.json").read_text())
    assert (spent["fraction"], spent["step"], spent["images"], spent["params"]) == (1.0, 0, 0, 1)
    assert spent["tfe"] != spent["tfe"] and log_rows(folder) == []
    assert whole_model(folder, made.runtime()) is None


@pytest.mark.parametrize(
    "state", [{"w": torch.zeros(3)}, {"w": torch.tensor([[float("nan")]])}], ids=["shape", "nan"]
)
def test_weights_of_another_network_are_refused_in_one_line(state, tmp_path):
    save_file(state, tmp_path / "given.safetensors")
    with pytest.raises(UserError, match="^checkpoint=.*given.safetensors") as error:
        publish(tmp_path / "given.safetensors", tmp_path)
    assert "\n" not in str(error.value) and not weights_file(tmp_path).exists()


class Computing:
    """A method that computes with the teacher's values while it builds its student."""

    def build(self, teacher, spec):
        head = torch.nn.Linear(1, 1)
        with torch.no_grad():
            head.weight.copy_(teacher.network.weight)
        raise AssertionError("its values were there")


def test_a_method_that_needs_the_teachers_values_is_looked_at_by_its_stage(tmp_path, monkeypatch):
    """The plan has a frame without values: it says nothing of such a student."""
    path = tmp_path / "given.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    task = Publish(**GIVEN, settings={}, weights=digest(path))
    monkeypatch.setattr(Publish, "method_of", lambda self, runtime: Computing())
    frame = torch.nn.Linear(1, 1, device="meta")
    runtime = made.runtime(students=(str(path),))
    task.check(Teacher(frame, frame), runtime)
    with pytest.raises(AssertionError, match="its values were there"):
        whole = torch.nn.Linear(1, 1)
        task.check(Teacher(whole, whole), runtime)


def test_a_file_is_found_by_what_is_in_it(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"w": torch.tensor([value])}, tmp_path / f"{name}.safetensors")
    paths = tuple(str(tmp_path / f"{name}.safetensors") for name in "ab")
    runtime = made.runtime(students=paths)
    assert source_of(digest(tmp_path / "b.safetensors"), runtime) == paths[1]
    assert source_of("another", runtime) is None
    with pytest.raises(UserError, match="was changed while it was in use"):
        Publish(**GIVEN, settings={}, weights="another").run({}, tmp_path, runtime, made.silent)


def model(folder, **tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_whole_model_is_told_from_an_adapter(tmp_path):
    whole = model(tmp_path / "whole", w=torch.zeros(2))
    pipeline = model(tmp_path / "pipeline" / "transformer", w=torch.zeros(2)).parent
    adapter = model(tmp_path / "adapter", **{"a.lora_A.weight": torch.zeros(2)})
    assert is_whole(whole) and is_whole(pipeline) and not is_whole(adapter)
    (adapter / "config.json").write_text("{damaged")
    assert not is_whole(adapter) and not is_whole(tmp_path)


def test_a_whole_model_is_of_a_method_that_samples_such(tmp_path):
    whole = model(tmp_path / "whole", w=torch.zeros(2))
    with pytest.raises(UserError, match="a whole model; method=few-step samples such"):
        publish(whole, tmp_path)


def test_a_model_that_was_changed_is_named(tmp_path):
    whole = model(tmp_path / "whole", w=torch.zeros(2))
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "whole.json").write_text(json.dumps({"weights": digest(whole)}))
    runtime = made.runtime(students=(str(whole),))
    assert whole_model(artifact, runtime) == whole
    (whole / "config.json").write_text("{}")
    with pytest.raises(UserError, match="files of a published model were changed"):
        whole_model(artifact, runtime)
