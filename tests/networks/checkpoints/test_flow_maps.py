"""Published flow maps: networks of files in their layouts, samples in their units, refusals."""

import pytest
import torch
from piflow_methods.few_step import Config, FewStep
from safetensors.torch import save_file

from piflow_bench.api import Classes, SampleRandom, Spec, Teacher, Unconditional
from piflow_bench.errors import UserError
from piflow_bench.files.weights import check_shapes, load_into
from piflow_bench.networks.checkpoints.dit import load_dit
from piflow_bench.networks.checkpoints.flow_maps import LAYOUTS
from piflow_bench.pipeline.stages.published import state_for
from tests.networks.checkpoints import map_layouts as theirs

SHAPE = (theirs.CHANNELS, theirs.SIDE, theirs.SIDE)
ALL = sorted(LAYOUTS)
LABELS = torch.tensor([3, 0, theirs.CLASSES])


def settings(layout, **more):
    if layout == "imf":
        more = dict(zip(("told", "told_low", "told_high"), theirs.TOLD, strict=True)) | more
    if layout == "dmf":
        more = {"handover": theirs.HANDOVER} | more
    return Config(layout=layout, **more)


def build(layout, shape=SHAPE, classes=theirs.CLASSES, **more):
    """What the method builds before it has weights; the teacher's network is of no use to it."""
    nothing = torch.nn.Linear(1, 1)
    labels = LABELS.clamp(max=classes)
    condition = Classes(labels, classes) if classes else Unconditional(3)
    spec = Spec(shape, None, 1, lambda: None, condition)
    return FewStep(settings(layout, **more)).build(Teacher(nothing, nothing), spec)


def written(layout, folder, change=None, shapes=None):
    state = theirs.drawn((shapes or theirs.SHAPES[layout])(), seed=ALL.index(layout))
    if change:
        change(state)
    path = folder / f"{layout}.pt"
    torch.save(theirs.content(layout, state), path)
    return path, state


def loaded(layout, folder, **more):
    path, state = written(layout, folder)
    built = build(layout, **more)
    network = built.modules["student"]
    load_into(network, state_for(network, path, "checkpoint"), "checkpoint")
    return built.student, network, state


def close(actual, expected):
    assert expected.abs().mean() > 0.1, "a network whose output says nothing"
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-4), (actual - expected).abs().max()


# ------------------------------------------------------------------ networks


@torch.no_grad()
@pytest.mark.parametrize("layout", ALL)
def test_a_file_gives_the_network_of_its_description(layout, tmp_path):
    """At times of their own for each row, of labels and of none."""
    _, network, state = loaded(layout, tmp_path)
    torch.manual_seed(1)
    x, t, r = torch.randn(3, *SHAPE), torch.tensor([1.0, 0.7, 0.4]), torch.tensor([0.0, 0.5, 0.1])
    c = Classes(LABELS, theirs.CLASSES)
    found = network(x, t, c, duration=t - r)
    close(found, theirs.output(layout, state, x, t, r, LABELS))
    assert not torch.allclose(found, network(x, t, c, duration=0 * t), atol=1e-2)


@torch.no_grad()
def test_a_decoupled_map_over_no_time_is_the_flow_that_it_was_made_of(tmp_path):
    path, state = written("dmf", tmp_path)
    _, network, _ = loaded("dmf", tmp_path)
    torch.save({k: v for k, v in state.items() if "logvar" not in k}, path)
    flow, *_ = load_dit(str(path), height=theirs.SIDE)
    x, t, c = torch.randn(3, *SHAPE), torch.tensor([0.9, 0.5, 0.2]), Classes(LABELS, 10)
    assert torch.allclose(network(x, t, c, duration=0 * t), flow(x, t, c), atol=1e-5)


@torch.no_grad()
def test_gates_by_their_later_name_are_the_same(tmp_path):
    path, state = written("imf", tmp_path)
    later = {k.replace("_gate", "_scale"): v for k, v in state.items()}
    torch.save(later, path)
    network = build("imf").modules["student"]
    _, first, _ = loaded("imf", tmp_path)
    torch.save(later, path)
    load_into(network, state_for(network, path, "checkpoint"), "checkpoint")
    for name, value in first.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


# ------------------------------------------------------------------ samples


@torch.no_grad()
@pytest.mark.parametrize("nfe", [1, 2])
@pytest.mark.parametrize("layout", ["meanflow", "dmf", "imf"])
def test_steps_are_those_of_their_sampler(layout, nfe, tmp_path):
    """From noise at 1 down to data at 0, decoded by the same autoencoder as theirs."""
    student, network, state = loaded(layout, tmp_path)
    noise, times = torch.randn(3, *SHAPE), torch.linspace(1, 0, nfe + 1)
    condition = Classes(LABELS, theirs.CLASSES)
    found = student.bind(network).sample(noise, condition, nfe, SampleRandom(0, range(3)))
    x = noise
    for t, r in zip(times[:-1], times[1:], strict=True):
        u = theirs.output(layout, state, x, t.expand(3), r.expand(3), LABELS)
        x = x + (r - t) * u
    close(found / 0.18215, theirs.decoded(layout, x))


@torch.no_grad()
def test_a_solution_operator_goes_to_data_and_noises_anew(tmp_path):
    """SoFlow's sampler: f(x, t, 0) = x - t NN(x, t, 0), then noise of the next time."""
    student, network, state = loaded("soflow", tmp_path, sampler="renoise")
    noise, random = torch.randn(3, *SHAPE), SampleRandom(0, range(3))
    condition = Classes(LABELS, theirs.CLASSES)
    one, half, zero = torch.ones(3), torch.full((3,), 0.5), torch.zeros(3)
    x = noise - theirs.output("soflow", state, noise, one, zero, LABELS)
    found = student.bind(network).sample(noise, condition, 1, random)
    close(found / 0.18215, theirs.decoded("soflow", x))
    x = 0.5 * x + 0.5 * random.normal(0, SHAPE)
    x = x - 0.5 * theirs.output("soflow", state, x, half, zero, LABELS)
    found = student.bind(network).sample(noise, condition, 2, random)
    close(found / 0.18215, theirs.decoded("soflow", x))


@torch.no_grad()
def test_the_guidance_that_is_asked_for_is_told(tmp_path):
    _, network, _ = loaded("imf", tmp_path)
    x, t, c = torch.randn(3, *SHAPE), torch.ones(3), Classes(LABELS, theirs.CLASSES)
    found = network(x, t, c, duration=t)
    for other in ({"told": 4.0}, {"told_low": 0.1}, {"told_high": 0.9}):
        _, again, _ = loaded("imf", tmp_path, **other)
        assert not torch.allclose(again(x, t, c, duration=t), found, atol=1e-3), other
    with pytest.raises(ValueError, match="layout=imf: told is the guidance"):
        Config(layout="imf")
    with pytest.raises(ValueError, match="told=2: layout=dmf is told no guidance"):
        Config(layout="dmf", told=2.0)


def test_they_are_of_another_track_than_what_is_distilled():
    assert FewStep(Config()).facts_for().track == "distilled"
    for layout in ALL:
        facts = FewStep(settings(layout)).facts_for()
        assert facts.track == "from scratch" and not facts.needs_teacher and facts.published


# ------------------------------------------------------------------ other files


@torch.no_grad()
@pytest.mark.parametrize("layout", ALL)
def test_exported_weights_and_those_of_a_stage_are_the_same_network(layout, tmp_path):
    _, network, _ = loaded(layout, tmp_path)
    save_file(network.state_dict(), tmp_path / "exported.safetensors")
    again, stage = build(layout).modules["student"], build(layout).modules["student"]
    load_into(again, state_for(again, tmp_path / "exported.safetensors", "x"), "x")
    stage.load_state_dict(network.state_dict())
    x, t, c = torch.randn(3, *SHAPE), torch.ones(3), Classes(LABELS, theirs.CLASSES)
    for other in (again, stage):
        assert torch.equal(other(x, t, c, duration=t), network(x, t, c, duration=t))


LAST = {"imf": "net.u_heads.1.norm2.weight"}
WIDE = {"imf": "net.u_heads.1.mlp.w3._flax_linear.weight"}


def without(layout):
    return lambda state: state.pop(LAST.get(layout, "blocks.2.mlp.fc2.bias"))


def wider(layout):
    name = WIDE.get(layout, "blocks.1.attn.proj.weight")
    return lambda state: state.update({name: torch.zeros(144, state[name].shape[1])})


def refused(layout, path, **more):
    network = build(layout, **more).modules["student"]
    with pytest.raises(UserError) as error:
        state = state_for(network, path, f"checkpoint={path}")
        check_shapes(network, state, f"checkpoint={path}")
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("layout", ALL)
def test_a_file_that_is_not_whole_or_of_one_width_is_refused(layout, tmp_path):
    path, _ = written(layout, tmp_path, without(layout))
    assert "lacks backbone.network." in refused(layout, path)
    path, _ = written(layout, tmp_path, wider(layout))
    assert "is (144, " in refused(layout, path)
    path, _ = written(layout, tmp_path, lambda s: s.update({"guidance_embedder.x": torch.ones(2)}))
    assert "that do not belong" in refused(layout, path)


@pytest.mark.parametrize("layout", ALL)
def test_a_network_of_other_samples_is_refused(layout, tmp_path):
    path, _ = written(layout, tmp_path)
    assert "of 10 classes; these samples are of 7" in refused(layout, path, classes=7)
    assert "of 10 classes; these samples are of 12" in refused(layout, path, classes=12)
    assert "of 10 classes; these samples are of 0" in refused(layout, path, classes=0)
    assert "of 4 channels; these samples are of 3" in refused(layout, path, shape=(3, 8, 8))
    assert "patches of 2 do not divide" in refused(layout, path, shape=(4, 8, 7))
    if layout != "imf":  # Positions by rotation are of any size.
        words = refused(layout, path, shape=(4, 16, 16))
        assert "position table is of 16 patches, these samples are of 64" in words


@pytest.mark.parametrize(
    "layout, given, words",
    [
        ("soflow", "dmf", "has no s_embedder, which layout=soflow has"),
        ("meanflow", "soflow", "has no r_embedder, which layout=meanflow has"),
        ("dmf", "soflow", "that do not belong"),
        ("imf", "dmf", "no transformer of iMF: lacks"),
        ("soflow", "imf", "no class-conditional DiT"),
    ],
)
def test_a_file_of_another_layout_is_refused(layout, given, words, tmp_path):
    path, _ = written(given, tmp_path)
    assert words in refused(layout, path)


def test_a_network_of_fewer_blocks_than_are_told_the_start_is_refused(tmp_path):
    path, _ = written("dmf", tmp_path)
    assert "has 3 blocks; handover=20 is of more" in refused("dmf", path, handover=20)


def test_a_pickle_of_classes_is_not_read(tmp_path):
    """As TVM's files are."""
    torch.save({"ema": torch.nn.Linear(1, 1)}, tmp_path / "im256_w2.pkl")
    assert "not a PyTorch file of plain tensors" in refused("soflow", tmp_path / "im256_w2.pkl")
