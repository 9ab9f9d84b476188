"""scale.device means one thing: cpu, or the one GPU of a process."""

from dataclasses import replace

import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.contracts.plugin import NoSettings, Place
from piflow_bench.errors import USER_ERROR, UserError
from piflow_bench.pipeline.plan import runtime_of
from piflow_bench.pipeline.plan.refusals import check_machine
from piflow_bench.pipeline.runtime import Given, Runtime
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
        check_machine(config, runtime.scale)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UserError, match=r"1 needed, 0 GPUs found; .*scale.device=cpu"):
            check_machine(config, runtime.scale)


def test_pictures_are_looked_at_where_the_run_computes(monkeypatch):
    """The device is handed to data, space and extractors; on two devices they are loaded twice."""
    from piflow_bench.pipeline import runtime

    asked = []

    class Anything:
        Config, space = NoSettings, "of its own"

        def __init__(self, config):
            pass

        def load(self, given, *where):
            asked.append((given if isinstance(given, str) else "", *where))
            return object()

    monkeypatch.setattr(runtime.registry, "get", lambda kind, name, folders: Anything)
    here = Runtime(given=Given(dataset={"name": "tried on two devices"}))
    there = replace(here, scale=Scale("cuda"))
    for look in (Runtime.dataset, lambda r: r.extractor("eye")):
        first = look(here)
        assert look(here) is first and look(there) is not first
    cpu, cuda = Place("cpu"), Place("cuda")
    assert asked == [("", cpu), ("", cuda), ("eye", cpu), ("eye", cuda)]
    for loaded in (runtime._dataset, runtime._extractor):
        loaded.cache_clear()
