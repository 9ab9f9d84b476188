"""What the doctor finds, and that a run refuses what it finds missing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.machine import estimates, findings
from piflow_bench.pipeline.plan import runtime_of
from tests.pipeline import harness
from tests.stripes import class_folders


def call(folder, *arguments):
    return harness.call(*arguments, cwd=folder, HF_HUB_OFFLINE="1", COLUMNS="200")


@pytest.mark.parametrize("experiment", ["imagenet_1nfe", "imagenet_2nfe"])
def test_without_gpu_and_data_a_run_is_refused_with_the_table_and_writes_nothing(
    experiment, tmp_path
):
    result = call(tmp_path, "run", f"experiment={experiment}")
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    for words in ("GPU", "prepare imagenet", "VIRTUAL_imagenet256_labeled.npz", "hf download"):
        assert words in result.stdout, words
    assert result.stderr.count("\n") == 1 and "profile=smoke" in result.stderr


@pytest.mark.parametrize("experiment", ["flux_4nfe", "qwen_4nfe"])
def test_without_gpu_and_weights_text_to_image_is_refused_the_same_way(experiment, tmp_path):
    result = call(tmp_path, "run", f"experiment={experiment}")
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    told = " ".join(result.stdout.split())
    for words in ("GPU", "teacher.pipeline", "dataset.prompts", "hf download", "HPS_v2.1", "GB,"):
        assert words in told, words
    assert result.stderr.count("\n") == 1 and "profile=smoke" in result.stderr
    assert result.stderr.count("weights of inception") == 1
    assert result.stdout.count("weights of inception") == 1, "two extractors, one file"


@pytest.mark.parametrize("more", [[], ["profile=smoke"], ["dataset.folder=nowhere"]])
def test_pictures_that_nobody_gave_are_asked_for_and_no_small_settings_advised(
    more, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=images", *more]) == 2
    error = capsys.readouterr().err
    assert error.endswith("this machine lacks dataset.folder; give dataset.folder=PATH\n")
    assert not list(tmp_path.iterdir())


def test_the_verb_exits_4_with_a_gap_and_0_without(tmp_path):
    assert call(tmp_path, "doctor").returncode == 0
    result = call(tmp_path, "doctor", "experiment=imagenet_2nfe", "price=2")
    assert result.returncode == 4
    assert "training piflow-gm32" in result.stdout and "GPU-hours" in result.stdout
    bad = call(tmp_path, "doctor", "price=cheap")
    assert bad.returncode == 2 and "must be a number" in bad.stderr
    assert not list(tmp_path.iterdir())


def by_name(config):
    return {f.what: f for f in findings.findings(config)}


def test_what_is_there_is_found(tmp_path):
    (tmp_path / "ref.npz").write_bytes(b"x")
    (config,) = compose(
        [
            "experiment=imagenet_1nfe_repa",
            "scale.device=cpu",
            "only=[meanflow,dmd2,kd]",  # pi-Flow's recipe alone has moments in 8 bits.
            f"dataset.reference={tmp_path / 'ref.npz'}",
            f"dataset.latents={tmp_path / 'nowhere'}",
        ]
    )
    found = by_name(config)
    assert found["GPU"].state == found["dataset.reference"].state == findings.OK
    assert "no such file" in found["dataset.latents"].detail
    assert "package bitsandbytes" not in found


def test_a_full_disk_is_a_gap(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(findings.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e6))
    (config,) = compose([f"runs={tmp_path / 'runs'}"])
    assert by_name(config)["disk"].state == findings.GAP


def test_estimates_follow_the_published_network():
    (config,) = compose(["experiment=imagenet_1nfe_repa"])
    network = estimates.network_of(config)
    assert network.parameters == pytest.approx(675e6, rel=0.01)  # DiT-XL/2, as published
    assert network.flops / 2 == pytest.approx(118.6e9, rel=0.02)  # its 118.6 Gflops count a product
    hours = estimates.hours(config, network, 4e14)
    trained = [v for k, v in hours.items() if k.startswith("training")]
    variants = list(estimates.chosen_variants(config))
    assert len(trained) == sum(facts.trained_here for *_, facts in variants) > 7
    assert max(trained) / min(trained) < 1.01, "one budget for all"
    (_, entry, facts) = next(v for v in variants if v[0] == "piflow-gm32")
    replicated = estimates.memory(config, network, entry, facts)
    config.scale = replace(config.scale, parallel="fsdp")
    assert estimates.memory(config, network, entry, facts) < replicated
    config.training = replace(config.training, checkpointing=False)
    more = estimates.network_of(config)
    assert more.activations > 5 * network.activations


def test_estimates_are_of_the_experiments_own_network(tmp_path):
    folder = f"dataset.folder={class_folders(tmp_path / 'pictures', each=10)}"
    found = {}
    for dim in (32, 64):
        given = ["experiment=images", folder, f"runs={tmp_path / 'runs'}", f"teacher.dim={dim}"]
        (config,) = compose([*given, "scale.device=cuda", "training.checkpointing=false"])
        found[dim] = estimates.network_of(config)
        runtime = runtime_of(config)
        network = runtime.teacher_plugin().fresh_network(runtime.dataset())
        assert found[dim].parameters == sum(p.numel() for p in network.parameters())
        assert found[dim].sample == 3 * 16 * 16
        called = found[dim].subject.inputs(2, "cpu")
        assert network(*called).shape == (2, 3, 16, 16)  # What a GPU's pace is measured by.
    assert found[64].flops > 2 * found[32].flops and found[64].activations > found[32].activations
    assert estimates.network_of(compose(given)[0]) is None, "small enough for a CPU"


def test_the_smoke_profile_asks_for_little(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(findings.shutil, "disk_usage", lambda place: SimpleNamespace(free=2e9))
    for config in compose(["experiment=imagenet_1nfe", "profile=smoke"]):
        assert findings.gaps(config) == [] and estimates.network_of(config) is None


def test_adapters_on_a_frozen_network_are_estimated_as_such(tmp_path, monkeypatch):
    """FLUX.1 [dev] at its size, of which no weights are here."""
    import diffusers
    import torch
    from safetensors.torch import save_file

    from piflow_bench.preparation.stand_ins import generate

    made = generate(tmp_path / "inputs", ["flux"])
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    stated = {k: v for k, v in model.config.items() if not k.startswith("_")}
    folder = Path(made["flux"]) / "transformer"
    config = {"_class_name": "FluxTransformer2DModel", **stated}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    monkeypatch.chdir(tmp_path)
    (config,) = compose(
        [
            "experiment=flux_4nfe",
            "dataset.prompts=prompts.txt",
            f"teacher.pipeline={made['flux']}",
            f"space.autoencoder={made['flux']}/vae",
            "only=[piflow-gm8,kd]",
        ]
    )
    network = estimates.network_of(config)
    assert network.parameters == 11_901_408_320 and network.trained < 0.06 * network.parameters
    assert network.conditions == 2 * 512 * 4096 * 2
    (_, entry, facts), _ = estimates.chosen_variants(config)
    whole = estimates.memory(config, network, entry, facts)
    assert 24e9 < whole < 60e9, "one base in 16 bits, and the adapters' own"
    config.scale = replace(config.scale, parallel="fsdp", processes=8)
    assert estimates.memory(config, network, entry, facts) < 0.4 * whole
    guided = estimates.hours(config, network, 1e15)["converged teacher"]
    assert guided == pytest.approx(6400 * 50 * network.flops / 1e15 / 3600), "told, not guided"


def test_what_is_known_of_a_file_is_that_of_its_nearest_address():
    from piflow_bench.machine.known import about

    assert "gated" in about("hf://black-forest-labs/FLUX.1-dev@main")
    assert about("hf://black-forest-labs/FLUX.1-dev/vae").startswith("0.2 GB")
    assert about("hf://Lakonik/pi-FLUX.1/gmflux_k8_piid_4step").startswith("1.3 GB")
    assert about("hf://nobody/nothing") == about("a/path") == about(None) == ""
