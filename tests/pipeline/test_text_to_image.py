"""FLUX.1 and Qwen-Image end to end under the smoke profile: prompts, adapters, scores, page."""

import json
import random
import re
import shutil
import signal
import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import piflow_bench
from piflow_bench.registry import find
from tests.pipeline import harness
from tests.pipeline.forked import Forked

pytestmark = pytest.mark.slow

RUNS = {
    "flux_4nfe": {
        4: {"piflow-gm8", "arcflow", "kd", "pi-flux-gm8", "pi-flux-gm8-data-free", "pi-flux-dx10",
            "flux-schnell", "senseflow"},
        8: {"pi-flux-gm8-8nfe", "flux-turbo", "hyper-flux"},
    },
    "qwen_4nfe": {
        4: {"piflow-gm8", "arcflow", "kd", "pi-qwen-gm8", "pi-qwen-gm8-data-free", "pi-qwen-dx10",
            "qwen-lightning", "qwen-flash"},
    },
}  # fmt: skip
SMOKE = ("profile=smoke", "budget.checkpoints=[1.0]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """By an experiment's name: the name, and the folder that it was run in, once."""

    @cache
    def once(name):
        folder = tmp_path_factory.mktemp(name)
        result = harness.run(f"experiment={name}", *SMOKE, cwd=folder, timeout=1150)
        assert result.returncode == 0, result.stdout + result.stderr
        return name, folder

    return once


@pytest.fixture(params=RUNS)
def done(request, run):
    return run(request.param)


def results(done):
    name, folder = done
    return pd.read_parquet(folder / "runs" / f"{name}-smoke" / "results.parquet")


def test_trained_and_published_students_are_scored_beside_the_teacher(done):
    table = results(done)
    assert (table.status == "ok").all()
    students = table[table.role == "student"]
    for nfe, names in RUNS[done[0]].items():
        assert set(students[students.nfe == nfe].variant) == names
    for name in ("clip_score", "hpsv2_quickgelu", "pairwise_within", "vendi_within", "fd"):
        rows = table[(table.metric == name) & table.role.isin(["student", "teacher", "control"])]
        assert rows.value.notna().all() and (rows.ci_low < rows.ci_high).all(), name
    trained = students[students.train_seed.notna()]
    assert set(trained.variant) == {"piflow-gm8", "arcflow", "kd"}


def test_prompts_are_encoded_once_and_read_by_all(done):
    _, folder = done
    artifacts = folder / "runs" / "store" / "artifacts"
    (encoded,) = artifacts.glob("encode_text-*")
    assert json.loads((encoded / "index.json").read_text())["records"] == 5


def test_what_is_kept_of_a_training_is_its_adapters(done):
    _, folder = done
    artifacts = folder / "runs" / "store" / "artifacts"
    base = next((folder / "runs" / "inputs").rglob("transformer/*.safetensors")).stat().st_size
    for weights in artifacts.glob("distill-*/checkpoint_0.safetensors"):
        assert weights.stat().st_size < base


def test_the_page_has_captions_and_a_wall_of_each_prompt(done):
    name, folder = done
    run = folder / "runs" / f"{name}-smoke"
    with np.load(run / "grids.npz", allow_pickle=False) as arrays:
        labels = arrays["labels"].tolist()
        assert arrays["teacher"].shape[1:] == (64, 96, 3)
    assert labels[:3] == ["a red square on a blue floor"] * 3, "seeds of a prompt lie together"
    page = (run / "report.html").read_text()
    assert '<option value="two green circles">' in page


def test_a_second_call_finds_everything_done(done):
    name, folder = done
    harness.forget()
    result = harness.call("run", f"experiment={name}", *SMOKE, "launcher=debug", cwd=folder)
    assert result.returncode == 0 and "0 stages computed" in result.stdout


@pytest.mark.parametrize(
    "name, published",
    [
        ("flux_4nfe", False),
        ("flux_4nfe", True),
        pytest.param("qwen_4nfe", False, marks=pytest.mark.thorough),
        ("qwen_4nfe", True),
    ],
)
def test_a_student_is_exported_and_scored_again(name, published, run, tmp_path):
    """In the project's own form, and in that of the teacher's published adapters."""
    _, folder = done = run(name)
    opened = piflow_bench.open(folder / "runs" / f"{name}-smoke")
    opened.export("piflow-gm8", tmp_path / "own", nfe=4, published=published)
    harness.forget()
    result = harness.call(
        "run", f"experiment={name}", *SMOKE, "launcher=debug", f"name=again-{published}",
        "only=[piflow-gm8,teacher-euler]", f"student.checkpoint={tmp_path / 'own'}", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    table = pd.read_parquet(folder / "runs" / f"again-{published}" / "results.parquet")
    both = [
        t[(t.variant == "piflow-gm8") & (t.metric == "fd") & (t.nfe == 4)].value.iloc[0]
        for t in (table, results(done))
    ]
    assert both[0] == both[1], "no bit of it is lost on the way"


def test_weights_and_pictures_leave_a_run_by_the_command_line(done, tmp_path):
    name, folder = done
    run = str(folder / "runs" / f"{name}-smoke")
    result = harness.call("export", run, f"out={tmp_path / 'w'}", "variant=kd", "nfe=4",
                               cwd=folder)  # fmt: skip
    assert result.returncode == 0 and (tmp_path / "w" / "config.json").is_file()
    assert len(list((tmp_path / "w" / "samples").iterdir())) > 1
    result = harness.call("export", run, f"out={tmp_path / 'g'}", "grids=oneig", cwd=folder)
    assert result.returncode == 2 and "3 samples a prompt; OneIG reads 1 or 4" in result.stderr
    assert not (tmp_path / "g").exists()


def planned(done, variant, *settings):
    """The plan of a variant alone."""
    name, folder = done
    return harness.call(
        "run", f"experiment={name}", *SMOKE, "--plan", f"+variants.mine={variant}", "only=[mine]",
        *settings, cwd=folder,
    )  # fmt: skip


LACKS = {
    "meanflow": "real samples",
    "freeflow": "needs duration of the teacher's network",
    "twinflow": "real samples",
    "scflow": "real samples",
    "dollar": "real samples",
    "dmd2": "real samples",
    "consistency": "real samples",
    "scm": "real samples",
    "rcm": "real samples",
    "facm": "real samples",
    "perflow": "real samples",
    "progressive": "real samples",
    "shortcut": "real samples",
    "imf": "real samples",
    "anyflow": "real samples",
    "tvm": "real samples",
    "mdt-dist": "real samples",
    "imm": "real samples",
    "drifting": "real samples",
}
CAN = (
    "{method: sid}",
    "{method: ladd}",
    "{method: reflow}",
    "{method: dmd2, settings: {gan: false}}",
)
"""With piflow and kd, which are run, all methods but the teacher and the published students."""


def test_every_method_is_planned_or_told_what_it_lacks(run):
    """Those that can are trained in tests/training/test_shared_base.py."""
    done = run("flux_4nfe")
    methods = {plugin for plugin in find("method") if plugin not in ("teacher", "few-step")}
    assert methods == {*LACKS, "sid", "ladd", "reflow", "piflow", "kd"}
    for method, words in LACKS.items():
        nfe = 1 if method in ("freeflow", "drifting") else 4
        result = planned(done, f"{{method: {method}}}", f"nfes=[{nfe}]")
        assert result.returncode == 2, method
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("error: variants.mine: ") and words in line, line
    for variant in CAN:
        result = planned(done, variant)
        assert result.returncode == 0, result.stderr


def test_a_method_that_needs_more_of_the_network_is_named_before_the_start(done):
    harness.forget()
    result = planned(done, "{method: meanflow}")
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert "variants.mine" in line and ("duration" in line or "real samples" in line)


def _pickled(given, out):
    torch.save({"a.lora_A.weight": torch.nn.Linear(2, 2)}, path := out / "student.pt")
    return path


def _cut(given, out):
    path = out / "cut.safetensors"
    path.write_bytes(given["lora"].read_bytes()[:-100])
    return path


def _of_another_base(given, out):
    state = load_file(given["lora"])
    moved = {
        k.replace("transformer_blocks.0", "transformer_blocks.99"): v for k, v in state.items()
    }
    save_file(moved, path := out / "moved.safetensors")
    return path


def _wider(given, out):
    state = load_file(given["lora"])
    first = next(k for k in state if "lora_A" in k)
    save_file({**state, first: torch.zeros(4, 7)}, path := out / "wider.safetensors")
    return path


def _without_a_bias(given, out):
    shutil.copytree(given["gm"], out / "gm")
    path = out / "gm" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["proj_out_logstds.1.bias"]
    save_file(state, path)
    return path.parent


def _whole(given, out):
    return given["whole"]


def _of_another_family(given, out):
    shutil.copytree(given["whole"] / "transformer", out / "other")
    path = out / "other" / "config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "joint_attention_dim": 77}))
    return path.parent


FEW = "method: few-step"
GM = "method: piflow, settings: {policy: gm, components: 8, logstd_inner: 16}"
WRONG = {
    "a pickle": (_pickled, FEW, "no LoRA|no part of a LoRA|plain tensors"),
    "a file that was cut": (_cut, FEW, "not readable safetensors"),
    "a LoRA of another base": (_of_another_base, FEW, "of another base, which has a layer"),
    "a LoRA of another width": (_wider, FEW, "of another base: .* features"),
    "a head that lacks a tensor": (_without_a_bias, GM, "lacks proj_out_logstds.1.bias"),
    "a mixture of another size": (
        lambda given, out: given["gm"], GM.replace("8", "4"), "weights of another network",
    ),
    "a whole model for a head": (_whole, GM, "a whole model; method=few-step"),
    "a whole model of another family": (_of_another_family, FEW, "of another family"),
    "no guidance to tell": (
        lambda given, out: given["lora"], FEW + ", settings: {told: 1.0}", "told no guidance",
    ),
}  # fmt: skip
OF_ONE_KIND = {"no guidance to tell": "qwen", "a LoRA of another width": "flux"}
"""FLUX.1 [dev] is told a guidance; the stand-in of a LoRA of Qwen has another tool's layout."""


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_student_of_this_teacher_is_refused_by_the_plan(wrong, done, tmp_path):
    """By headers: before anything is computed, whatever is in the store."""
    name, folder = done
    kind = name.removesuffix("_4nfe")
    make, method, words = WRONG[wrong]
    if wrong in OF_ONE_KIND and OF_ONE_KIND[wrong] != kind:
        return
    inputs = folder / "runs" / "inputs" / "text-to-image"
    given = {
        "lora": inputs / f"{kind}-lora.safetensors",
        "gm": inputs / f"{kind}-gm",
        "whole": inputs / kind,
    }
    path = make(given, tmp_path)
    harness.forget()
    result = harness.call(
        "run", f"experiment={name}", *SMOKE, "--plan", "only=[mine]",
        f"+variants.mine={{{method}, checkpoint: '{path}'}}", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 2, result.stdout
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: checkpoint={path}: ") or str(path) in line
    assert re.search(words, line), line


PUBLISHED = {"flux_4nfe": "flux-schnell", "qwen_4nfe": "qwen-lightning"}


def begun(store):
    """Names of the stages that are done or under way."""
    return {p.name for kind in ("work", "artifacts") for p in (store / kind).glob("*-*")}


def test_killed_at_any_moment_the_same_command_goes_on_to_the_same_bits(done, tmp_path):
    name, folder = done
    shutil.copytree(folder / "runs" / "inputs", tmp_path / "runs" / "inputs")
    only = f"only=[piflow-gm8,{PUBLISHED[name]}]"
    given = ["run", f"experiment={name}", *SMOKE, only, "nfes=[4]", "save_seconds=0.1"]
    moments, store = random.Random(0), tmp_path / "runs" / "store"
    for _ in range(4):
        process = Forked(given, tmp_path)
        # By stages, not by seconds: of the 26 a fast machine does many in one.
        enough = len(begun(store)) + moments.randint(1, 4)
        assert harness.wait_until(lambda n=enough: len(begun(store)) >= n, 240)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it came to its end"
    result = harness.run(*given[1:], cwd=tmp_path, timeout=1150)
    assert result.returncode == 0, result.stdout + result.stderr
    again = pd.read_parquet(tmp_path / "runs" / f"{name}-smoke" / "results.parquet")
    whole = results(done)
    students = {"piflow-gm8", PUBLISHED[name]}
    both = [
        harness.bits(t[t.variant.isin(students) & (t.nfe == 4)].reset_index(drop=True))
        for t in (again, whole)
    ]
    assert both[0] == both[1]


ONE_FILE = """
import copy
from dataclasses import dataclass

from piflow_bench.api import Built, Facts, Method, Optimizer, Student, Update, flow, solve


@dataclass(frozen=True)
class Config:
    lr: float = 1e-3


@dataclass
class OneStep(Student):
    network: object

    def sample(self, noise, condition, nfe, random, **settings):
        times = flow.time_grid(nfe)
        return flow.euler(lambda x, t: self.network(x, t, condition), noise, times)


class Mine(Method):
    Config = Config
    facts = Facts(family="regression"{more})

    def build(self, teacher, spec):
        network = copy.deepcopy(teacher.network).requires_grad_(True)
        optimizers = {{"student": Optimizer(("student",), self.config.lr)}}
        return Built(OneStep(network), {{"student": network}}, optimizers)

    def training_step(self, batch, context):
        noise = context.random.normal("noise", batch.shape)
        end = solve(context.teacher, noise, batch.condition, 2, "euler")
        u = context.networks["student"](noise, noise.new_ones(len(noise)), batch.condition)
        yield Update("student", (noise - u - end).square().mean())
"""


@pytest.mark.parametrize(
    "more, words",
    [
        ("", None),
        (", needs_data=True", "variants.mine: is trained on real samples, and prompts has"),
        (', backbone=("duration",)', "variants.mine: needs a second time input|duration"),
    ],
)
def test_a_method_that_was_written_without_text_in_mind(more, words, done, tmp_path):
    """As docs/add-a-method.md has it: it is run, or told in one line what it lacks."""
    name, folder = done
    (tmp_path / "mine.py").write_text(ONE_FILE.format(more=more))
    harness.forget()
    result = harness.call(
        "run", f"experiment={name}", *SMOKE, f"plugins={tmp_path}", "launcher=debug",
        "+variants.mine={method: mine}", "only=[mine]", "nfes=[4]", "name=mine", cwd=folder,
    )  # fmt: skip
    if words is None:
        assert result.returncode == 0, result.stdout + result.stderr
        table = pd.read_parquet(folder / "runs" / "mine" / "results.parquet")
        own = table[(table.variant == "mine") & (table.metric == "fd")]
        assert len(own) and own.value.notna().all() and (own.nfe == 4).all()
    else:
        assert result.returncode == 2
        (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
        assert re.search(words, line)
