"""scale.device means one thing: cpu, or the one GPU of a process."""

from dataclasses import replace

import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.errors import USER_ERROR, UserError
from piflow_bench.pipeline.plan import _check_machine, runtime_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.training.scale import Scale


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0", "mps", "CUDA", "gpu", ""])
@pytest.mark.parametrize("verb", [["run", "--plan"], ["doctor"], ["show"]])
def test_other_devices_are_refused_in_one_line_by_every_verb(verb, device, tmp_path, capsys):
    arguments = [*verb, "profile=smoke", f"scale.device='{device}'", f"runs={tmp_path / 'runs'}"]
    assert main(arguments) == USER_ERROR
    told = capsys.readouterr().err
    assert told.startswith(f"error: scale.device={device}: must be cpu or cuda")
    assert told.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_smoke_profile_takes_a_gpu_where_the_user_names_it(monkeypatch):
    """ImageNet's smoke profile is for any machine, so it names the CPU."""
    arguments = ["experiment=imagenet_1nfe", "profile=smoke"]
    parts = compose([*arguments, "scale.device=cuda"])
    assert [c.scale.device for c in compose(arguments)] == ["cpu", "cpu"]
    for config in parts:
        runtime = runtime_of(config)
        assert (runtime.scale.device, runtime.scale.processes) == ("cuda", 1)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        _check_machine(config, runtime.scale)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UserError, match=r"1 needed, 0 GPUs found; .*scale.device=cpu"):
            _check_machine(config, runtime.scale)


def test_a_dataset_looks_at_images_where_the_run_computes(monkeypatch):
    """The device is handed to the dataset, and two devices are two loaded datasets."""
    from piflow_bench.pipeline import runtime

    asked = []
    monkeypatch.setattr(
        runtime.registry, "get", lambda kind, name: lambda *given: asked.append(given) or object()
    )
    runtime._cached_dataset.cache_clear()
    base = Runtime(scale=Scale("cpu"))
    config = {"name": "digits", "settings": {}}
    first = runtime.load_dataset(config, base)
    assert runtime.load_dataset(config, base) is first
    assert runtime.load_dataset(config, replace(base, scale=Scale("cuda"))) is not first
    assert asked == [({}, "cpu"), ({}, "cuda")]
    runtime._cached_dataset.cache_clear()
