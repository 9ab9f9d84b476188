"""Planning and asking open no weights: names, shapes and digests of files are enough."""

import contextlib
import io

import pytest
import safetensors
import safetensors.torch
import torch

from piflow_bench.cli import main
from piflow_bench.files import weights
from piflow_bench.pipeline.plan import world
from tests.pipeline.harness import forget
from tests.stripes import class_folders

EXPERIMENTS = {
    "digits": (),
    "analytic_mixture2d": (),
    "imagenet_1nfe_repa": (),
    "imagenet_1nfe_fm": (),
    "images": ("dataset.folder=pictures",),
}
VERBS = {
    "plan": lambda name, more: ("run", "--plan", f"experiment={name}", "profile=smoke", *more),
    "status": lambda name, more: ("status", f"experiment={name}", "profile=smoke", *more),
    "cancel": lambda name, more: ("cancel", f"experiment={name}", "profile=smoke", *more),
    "show": lambda name, more: ("show", f"experiment={name}", "profile=smoke", *more),
}
DATA = ("digits.safetensors",)
"""Files of samples, which are no weights."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With pictures, and generated files that are made before anything is counted."""
    root = tmp_path_factory.mktemp("asked")
    class_folders(root / "pictures", each=10)
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()):
        for name, more in EXPERIMENTS.items():
            assert main(VERBS["plan"](name, more)) == 0
    return root


@pytest.fixture
def opened(monkeypatch):
    """What is opened with its values: the names of the functions and their files."""
    found = []

    def counted(module, name, is_weights=lambda given, named: True):
        function = getattr(module, name)

        def call(*given, **named):
            if is_weights(given, named):
                found.append((name, *map(str, given[:1])))
            return function(*given, **named)

        monkeypatch.setattr(module, name, call)

    def not_to_meta(given, named):
        return str(named.get("map_location")) != "meta"

    def not_data(given, named):
        return not str(given[0]).endswith(DATA)

    counted(torch, "load", not_to_meta)
    counted(safetensors.torch, "load_file", not_data)
    counted(safetensors.torch, "load_model")
    counted(weights, "load_file", not_data)
    counted(torch.jit, "load")
    counted(torch.hub, "load")
    counted(torch.hub, "load_state_dict_from_url")
    counted(torch.nn.Module, "load_state_dict")
    return found


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("verb", VERBS)
def test_no_weights_are_opened(verb, name, folder, opened, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(world, "_sound", {})  # What was looked at is looked at anew.
    forget()
    code = main(VERBS[verb](name, EXPERIMENTS[name]))
    told = capsys.readouterr()
    assert code == 0 or verb == "cancel", told.err
    assert opened == []


def test_weights_that_are_opened_are_counted(folder, opened):
    """That nothing is found above is not for want of looking."""
    from piflow_bench.pipeline.runtime import Given, Runtime

    forget()
    runtime = Runtime(given=Given({"name": "digits"}, {"name": "digits"}))
    runtime.teacher()
    runtime.extractor("digits")
    forget()
    files = {each[-1].rpartition("/")[2] for each in opened}
    assert {"digits_teacher.safetensors", "digits_classifier.safetensors"} <= files
