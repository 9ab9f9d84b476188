"""The digits' teacher: its file by content, its guidance, and the smoke profile's tiny network."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from piflow_bench.contracts.teacher import Guidance
from piflow_bench.errors import UserError
from piflow_bench.teachers import digits
from tests.world import world


def test_it_is_trained_and_guided():
    teacher = world().teacher()
    assert teacher.guidance == world().teacher_plugin().guidance == Guidance(1.5)
    assert teacher.field is teacher.network and not teacher.closed_form
    weights = load_file(digits.FILE)
    assert all(torch.equal(v, weights[k]) for k, v in teacher.network.state_dict().items())
    fresh = world().teacher_plugin().fresh_network(world().dataset()).state_dict()
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in weights.items()}


def test_other_weights_of_its_network(tmp_path):
    path = tmp_path / "mine, of today=1.safetensors"
    save_file({k: v / 2 for k, v in load_file(digits.FILE).items()}, path)
    found = world(checkpoint=str(path)).teacher().network.state_dict()
    assert torch.equal(2 * found["proj_out_2.weight"], load_file(digits.FILE)["proj_out_2.weight"])


def test_its_identity_is_content_and_settings_and_loads_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "read_weights", lambda *a, **k: pytest.fail("weights are read"))

    def identity(**settings):
        return world(**settings).teacher_plugin().identity()

    copy = shutil.copy(digits.FILE, tmp_path / "copy.safetensors")
    assert identity(checkpoint=str(copy)) == identity()
    copy.write_bytes(b"others")
    found = [identity(), identity(checkpoint=str(copy)), identity(guidance=2.0)]
    found += [identity(guidance_low=0.5), identity(dim=32), identity(untrained=True)]
    assert len({str(sorted(each.items())) for each in found}) == len(found)


def test_the_untrained_network_is_the_same_every_time():
    small = {"untrained": True, "dim": 16, "depth": 1}
    plugin, data = world(**small).teacher_plugin(), world().dataset()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = plugin.load(data).network.state_dict()
    assert torch.equal(torch.rand(3), expected), "the global generator is left alone"
    again = plugin.load(data).network.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in first.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance": -0.5}, r"teacher\.guidance=-0\.5: must be at least 0"),
        ({"guidance": "much"}, r"teacher\.guidance=much: must be float"),
        ({"guidance_low": 1.5}, r"teacher\.guidance_low=1\.5: must be at least 0 and at most 1"),
        (
            {"guidance_low": 0.6, "guidance_high": 0.4},
            r"teacher\.guidance_low=0\.6: must be at most guidance_high, 0\.4",
        ),
        ({"guidence": 2.0}, r"teacher\.guidence: no such setting; did you mean 'guidance'"),
        ({"dim": 0}, r"teacher\.dim=0: must be at least 1"),
        ({"checkpoint": "/nowhere"}, r"teacher\.checkpoint=/nowhere: no such file"),
    ],
)
def test_wrong_settings_are_explained(settings, words):
    with pytest.raises(UserError, match=words):
        world(**settings).teacher_plugin().identity()


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = load_file(digits.FILE)
    path = tmp_path / "t.safetensors"

    def refused(words):
        with pytest.raises(UserError, match=words):
            world(checkpoint=str(path)).teacher()

    save_file({k: v for k, v in state.items() if k != "proj_out_1.bias"}, path)
    refused(r"teacher\.checkpoint=.*: weights of another network: lacks proj_out_1\.bias")
    state["proj_out_1.bias"][0] = float("inf")
    save_file(state, path)
    refused(r"teacher\.checkpoint=.*: 1 of \d+ values of proj_out_1\.bias are not finite")
    path.write_bytes(path.read_bytes()[:500])
    refused("not readable safetensors")
    with pytest.raises(UserError, match="weights of another network"):
        world(dim=32).teacher()
