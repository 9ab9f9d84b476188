"""Published few-step models: their LoRAs as diffusers applies them, their samplers, refusals."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from piflow_methods.few_step import Config, FewStep, FewStepNetwork
from safetensors.torch import load_file, save_file

from piflow_bench import flow
from piflow_bench.api import SampleRandom, Spec, Teacher
from piflow_bench.cli import main
from piflow_bench.contracts.condition import Prompts
from piflow_bench.errors import UserError
from piflow_bench.pipeline.stages.published import state_for
from piflow_bench.preparation.tiny_adapters import tiny_lora
from piflow_bench.preparation.tiny_pipelines import PROMPTS
from tests.networks.text_to_image.test_encoded import pipeline_of, pipelines  # noqa: F401
from tests.teachers.test_text_to_image import KINDS, SHAPE, dataset, made, teacher_of  # noqa: F401


@pytest.fixture
def lora(made, tmp_path):  # noqa: F811
    kind, folder, _ = made
    path = tmp_path / f"{kind}.safetensors"
    tiny_lora(folder, path)
    return path


def built(made, path, **settings):  # noqa: F811
    """The student with the weights of a file, and its teacher."""
    teacher = teacher_of(made)
    condition = dataset().train_condition
    spec = Spec(SHAPE, None, 1, lambda: None, condition)
    found = FewStep(Config(**settings)).build(teacher, spec)
    network = found.modules["student"]
    network.load_state_dict(state_for(network, path, "checkpoint"))
    return found.student, network, teacher


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_a_lora_changes_the_network_as_diffusers_does(made, lora, scale):  # noqa: F811
    kind, folder, _ = made
    _, network, teacher = built(made, lora, scale=scale)
    x, t = torch.randn(2, *SHAPE), torch.tensor([0.9, 0.3])
    c = Prompts(torch.tensor([0, 3]), PROMPTS)
    found, before = network(x, t, c), teacher.field(x, t, c)
    pipeline = pipeline_of(folder.parent, kind)
    pipeline.load_lora_weights(str(lora), adapter_name="own")
    pipeline.set_adapters(["own"], [scale])
    base = teacher.network
    kept, base.transformer = base.transformer, pipeline.transformer.eval()
    proj, base.transformer.proj_out = base.transformer.proj_out, torch.nn.Identity()
    hook = base.transformer.time_text_embed.register_forward_hook(base._keep)
    expected = base(x, t, c)
    base.transformer = kept
    hook.remove()
    del proj
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)


@torch.no_grad()
def test_the_teacher_beside_it_stays_as_it_is(made, lora):  # noqa: F811
    plain = teacher_of(made)
    _, network, teacher = built(made, lora)
    x, t = torch.randn(1, *SHAPE), torch.tensor([0.5])
    c = Prompts(torch.tensor([1]), PROMPTS)
    network(x, t, c)
    assert torch.equal(teacher.field(x, t, c), plain.field(x, t, c))


def velocity(x, t, condition):
    return x * (1 + t)[:, None, None, None]


class Counting:
    def __init__(self):
        self.times = []

    def __call__(self, x, t, condition):
        self.times.append(float(t[0]))
        return velocity(x, t, condition)


def sampled(config, nfe, seed=0):
    network = Counting()
    backbone = torch.nn.Linear(1, 1)
    student = FewStep(config).build(Teacher(backbone, backbone), None).student.bind(network)
    noise = torch.ones(2, 1, 2, 2)
    x = student.sample(noise, None, nfe, SampleRandom(seed, range(2)))
    return x, network.times


def test_euler_takes_the_published_times():
    """FLUX Turbo's 8 and Qwen-Image-Lightning's 4 (1 .9 .75 .5)."""
    _, times = sampled(Config(shift=3.0), 4)
    assert times == pytest.approx([1, 0.9, 0.75, 0.5])
    _, times = sampled(Config(shift=3.158193), 8)
    assert times == pytest.approx([1, 0.957, 0.905, 0.840, 0.760, 0.655, 0.513, 0.311], abs=1e-3)
    _, times = sampled(Config(shift=3.158193), 4)
    assert times == pytest.approx([1, 0.9045, 0.7595, 0.5128], abs=1e-4)


def test_renoising_goes_to_data_and_back_with_noise_of_its_own():
    x, times = sampled(Config(sampler="renoise", shift=3.0), 2)
    assert len(times) == 2
    random = SampleRandom(0, range(2))
    noise = torch.ones(2, 1, 2, 2)
    x0 = noise - velocity(noise, torch.ones(2), None)
    s = flow.time_grid(2, 3.0)[1]
    middle = (1 - s) * x0 + s * random.normal(0, (1, 2, 2))
    end = middle - s * velocity(middle, s.expand(2), None)
    assert torch.allclose(x, end, atol=1e-6)
    assert not torch.equal(x, sampled(Config(sampler="renoise", shift=3.0), 2, seed=1)[0])
    assert FewStep(Config(sampler="renoise")).facts_for().stochastic_at(2)


@torch.no_grad()
def test_guidance_that_is_told_is_its_own(made, lora):  # noqa: F811
    kind, _, _ = made
    x, t = torch.randn(1, *SHAPE), torch.tensor([0.5])
    c = Prompts(torch.tensor([1]), PROMPTS)
    if kind == "qwen":
        with pytest.raises(ValueError, match="told=1: this network is told no guidance"):
            built(made, lora, told=1.0)
        return
    (_, one, _), (_, two, _) = built(made, lora, told=1.0), built(made, lora, told=3.5)
    assert not torch.allclose(one(x, t, c), two(x, t, c))
    assert torch.equal(two(x, t, c), built(made, lora)[1](x, t, c)), "the teacher's is 3.5"
    plain = SimpleNamespace(network=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="told no guidance"):
        FewStepNetwork(plain.network, Config(told=1.0))


def test_what_is_no_lora_of_this_base_is_one_line(made, lora, tmp_path):  # noqa: F811
    state = load_file(lora)
    first = next(k for k in state if "lora_A" in k or "lora_down" in k)
    cases = {
        "wide": ({**state, first: torch.randn(4, 7)}, "of another base: .* for 32 features"),
        "half": ({k: v for k, v in state.items() if k != first}, "has half of a LoRA|no LoRA that"),
        "nothing": ({"a.weight": torch.zeros(2)}, "no part of a LoRA|no LoRA"),
        "elsewhere": (
            {
                k.replace("transformer_blocks.0", "transformer_blocks.7"): v
                for k, v in state.items()
            },
            "of another base, which has a layer .*transformer_blocks.7",
        ),
        "text": (
            {f"text_encoder.{k.removeprefix('transformer.')}": v for k, v in state.items()},
            "text encoder|another base, which has a layer text_encoder",
        ),
    }
    for name, (tensors, words) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        with pytest.raises(UserError, match=words):
            built(made, path)


@torch.no_grad()
def test_a_whole_model_stands_in_the_teachers_place_without_its_weights(made):  # noqa: F811
    kind, folder, encoded = made
    plugin_of = KINDS[kind][0](KINDS[kind][1](pipeline=str(folder), dtype="float32", length=32))
    frame = plugin_of.frame(dataset(), encoded)
    assert all(p.is_meta for p in frame.network.transformer.parameters())
    spec = Spec(SHAPE, None, 1, lambda: None, dataset().train_condition)
    network = FewStep(Config()).build(frame, spec).modules["student"]
    network.use_model(folder, "checkpoint")
    x, t = torch.randn(2, *SHAPE), torch.tensor([0.9, 0.3])
    c = Prompts(torch.tensor([0, 3]), PROMPTS)
    assert torch.equal(network(x, t, c), teacher_of(made).field(x, t, c))


def test_a_model_of_another_family_is_one_line(made, tmp_path):  # noqa: F811
    kind, folder, _ = made
    network = FewStepNetwork(copy.deepcopy(teacher_of(made).network), Config())
    other = tmp_path / "other" / "transformer"
    other.mkdir(parents=True)
    stated = json.loads((folder / "transformer" / "config.json").read_text())
    for change, words in (
        ({"_class_name": "SD3Transformer2DModel"}, "a SD3Transformer2DModel, not a"),
        ({"joint_attention_dim": 7}, "of another family: its joint_attention_dim is 7, the"),
    ):
        (other / "config.json").write_text(json.dumps(stated | change))
        with pytest.raises(UserError, match=words):
            network.check_model(other.parent, "checkpoint=other")


def test_without_weights_it_is_refused_before_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(
        ["run", "profile=smoke", "--plan", "+variants.mine={method: few-step}", "only=[mine]"]
    )
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "variants.mine: few-step scores published weights; variants.mine.checkpoint=" in line
