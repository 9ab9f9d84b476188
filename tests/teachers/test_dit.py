"""A checkpoint of the field as a teacher: compared with the data by shapes, then by its values."""

import shutil
from dataclasses import replace

import pytest
import torch

from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guidance
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.preparation.stand_ins import generate
from piflow_bench.teachers import dit
from tests.latent_world import latent_world


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("inputs"))


def teacher(path, change=lambda state: None, **options):
    """Another teacher of the same kind."""
    torch.manual_seed(0)
    shape = {"channels": 4, "height": 8, "dim": 48, "depth": 1, "heads": 4, "classes": 10}
    state = DiT(**shape | options).state_dict()
    change(state)
    torch.save(state, path)
    return str(path)


def nan(state):
    state["proj_out_1.bias"][3] = float("nan")


BY_SHAPES = {
    "classes": (
        {"classes": 1000},
        "embeds 1000 classes and a null label, but imagenet has 10 classes",
    ),
    "no null label": ({"classes": 9}, "embeds 9 classes"),
    "channels": ({"channels": 16}, "for samples of 16 channels, but these are 4x8x8"),
}


@pytest.mark.parametrize("case", BY_SHAPES)
def test_facts_that_disagree_are_told_by_shapes_alone(inputs, tmp_path, monkeypatch, case):
    options, words = BY_SHAPES[case]
    path = teacher(tmp_path / "t.pth", **options)
    places, load = [], torch.load

    def watched(*given, map_location, **options):
        places.append(map_location)
        return load(*given, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", watched)
    runtime = latent_world({**inputs, "teacher": path})
    data, plugin = runtime.dataset(), runtime.teacher_plugin()
    for work in (lambda: plugin.look(data), runtime.teacher):
        with pytest.raises(UserError, match=rf"teacher\.checkpoint={path}: {words}"):
            work()
    assert places == ["meta", "meta"], "no values are read"


BY_VALUES = {
    "positions": (
        lambda s: s.update({"pos_embed.pos_embed": torch.zeros(1, 64, 48)}),
        "position table is of 64 patches, these samples are of 16",
    ),
    "learned positions": (
        lambda s: s.update({"pos_embed.pos_embed": torch.ones(1, 16, 48)}),
        "is not the sines and cosines",
    ),
    "not finite": (nan, "1 of 96 values of .* not finite"),
}


@pytest.mark.parametrize("case", BY_VALUES)
def test_values_are_looked_at_when_they_are_read(inputs, tmp_path, case):
    change, words = BY_VALUES[case]
    runtime = latent_world({**inputs, "teacher": teacher(tmp_path / "t.pth", change)})
    assert runtime.teacher_plugin().look(runtime.dataset()) == ""
    with pytest.raises(UserError, match=words):
        runtime.teacher()


def test_rectangles_are_served_where_patches_divide_them(inputs):
    runtime = latent_world(inputs)
    data, plugin = runtime.dataset(), runtime.teacher_plugin()
    wide: Dataset = replace(data, space=replace(data.space, shape=(4, 8, 4)))
    assert plugin.look(wide) == ""
    x = torch.randn(2, 4, 8, 4, generator=torch.Generator().manual_seed(0))
    u = plugin.load(wide)(x, torch.full((2,), 0.5), wide.conditions(0, range(2)))
    assert u.shape == x.shape and u.isfinite().all()
    odd: Dataset = replace(data, space=replace(data.space, shape=(4, 8, 5)))
    for work in (plugin.look, plugin.load):
        with pytest.raises(UserError, match="patches of 2 do not divide samples of 5x8"):
            work(odd)


@pytest.mark.parametrize("settings", [{}, {"units": 1000.0}, {"units": 2.0, "reverse": True}])
def test_a_fresh_network_is_the_teachers_but_for_its_weights(inputs, settings):
    runtime = latent_world(inputs, **settings)
    data = runtime.dataset()
    torch.manual_seed(0)
    fresh = runtime.teacher_plugin().fresh_network(data).eval()
    network = runtime.teacher().network
    assert len(network.transformer_blocks) == 2 and network.channels == 4
    fresh.load_state_dict(network.state_dict())
    x, t, c = torch.randn(3, 4, 8, 8), torch.rand(3), data.conditions(0, range(3))
    with torch.no_grad():
        assert torch.equal(fresh(x, t, c), network(x, t, c))


def test_which_set_of_weights_is_taken_is_known_before_they_are_read(inputs, tmp_path):
    state = torch.load(inputs["teacher"])["state_dict"]
    wrong = {k: v + 1 for k, v in state.items()}
    path = tmp_path / "two.pth"
    torch.save({"model": wrong, "model_ema": state}, path)
    runtime = latent_world({**inputs, "teacher": str(path)})
    assert runtime.teacher_plugin().look(runtime.dataset()) == "model_ema"
    assert runtime.teacher().taken == "model_ema"
    found = runtime.teacher().network.state_dict()
    assert torch.equal(found["proj_out_1.bias"], state["proj_out_1.bias"])
    flat = {f"{p}.{k}": v.clone() for p in ("net", "net_ema") for k, v in state.items()}
    torch.save(flat, tmp_path / "flat.pth")
    runtime = latent_world({**inputs, "teacher": str(tmp_path / "flat.pth")})
    assert runtime.teacher_plugin().look(runtime.dataset()) == runtime.teacher().taken == "net_ema"


def test_its_guidance_is_that_of_the_settings(inputs):
    given = {"guidance": 3.2, "guidance_low": 0.1, "guidance_high": 0.7}
    runtime = latent_world(inputs, **given)
    assert runtime.teacher().guidance == runtime.teacher_plugin().guidance
    assert runtime.teacher().guidance == Guidance(3.2, 0.1, 0.7)
    assert not latent_world(inputs).teacher().guidance.on


def test_its_identity_is_content_and_settings_and_loads_no_weights(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(dit, "read_weights", lambda *a, **k: pytest.fail("weights are read"))
    monkeypatch.setattr(dit, "load_dit", lambda *a, **k: pytest.fail("weights are read"))

    def identity(path=inputs["teacher"], **settings):
        runtime = latent_world({**inputs, "teacher": str(path)}, **settings)
        return runtime.teacher_plugin().identity()

    copy = shutil.copy(inputs["teacher"], tmp_path / "elsewhere, copied.pth")
    assert identity(copy) == identity() and str(copy) not in str(identity(copy))
    found = [identity(), identity(units=2.0), identity(reverse=True), identity(heads=2)]
    found += [identity(guidance=2.0), identity(guidance_high=0.5), identity(guidance_low=0.5)]
    copy.write_bytes(b"others")
    found.append(identity(copy))
    assert len({str(sorted(each.items())) for each in found}) == len(found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": None}, r"teacher\.checkpoint: not given; teacher\.checkpoint=PATH"),
        ({"guidance": -1.0}, r"teacher\.guidance=-1\.0: must be at least 0"),
        ({"guidance_high": 1.5}, r"teacher\.guidance_high=1\.5: must be at least 0 and at most 1"),
        (
            {"guidance_low": 0.8, "guidance_high": 0.7},
            r"teacher\.guidance_low=0\.8: must be at most guidance_high, 0\.7",
        ),
        ({"units": 0.0}, r"teacher\.units=0\.0: must be above 0"),
        ({"heads": 0}, r"teacher\.heads=0: must be at least 1"),
        ({"dim": 64}, r"teacher\.dim: no such setting"),
    ],
)
def test_wrong_settings_are_explained(inputs, settings, words):
    with pytest.raises(UserError, match=words):
        latent_world(inputs, **settings).teacher_plugin().identity()


def test_what_it_needs_is_told_with_how_to_have_it():
    plugin = dit.DiTTeacher(dit.Config())
    (needed,) = plugin.requirements()
    assert needed.source == dit.REPA
    assert needed.mend == (
        "hf download Lakonik/pi-Flow-ImageNet teachers/repa_imagenet.pth, then "
        "teacher.checkpoint=PATH"
    )
    (needed,) = dit.DiTTeacher(dit.Config(checkpoint="/mine.pth")).requirements()
    assert (needed.source, needed.mend) == ("/mine.pth", "teacher.checkpoint=PATH")
