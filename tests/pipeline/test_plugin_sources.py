"""Another project's dataset, extractor or metric that is edited makes anew what it made."""

import importlib
import re
import sys

import numpy as np
import pytest

from piflow_bench.config.compose import compose
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.plugin_sources import SourceChanged, unchanged_source
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.harness import forget

SETTINGS = ("profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]")
THEIRS = ("dataset=theirs", "teacher=theirs", "protocol.metrics=[fd,recall,spread]",
          "protocol.extractors=[digits,theirs]")  # fmt: skip
FILES = {
    "__init__": "",
    "data": """
from piflow_bench.data import digits
from .helper import SPACE


class Theirs(digits.Digits):
    space = SPACE
""",
    "helper": "SPACE = 'grey-levels'\n",
    "field": """
from piflow_bench.teachers import digits


class Theirs(digits.DigitsTeacher):
    pass
""",
    "measure": """
import numpy as np
from piflow_bench.evaluation.metrics.metric import Metric
from theirs import weights


def spread(inputs):
    x = inputs.generated.rows
    return {"spread": (x.std() * weights.FACTOR, [x.std()] * inputs.block_count)}


SPREAD = Metric("spread", "Spread", True, "diversity", ("generated",), spread)
""",
    "weights": "FACTOR = 2\n",
    "look": """
import torch
from piflow_bench.contracts.extractor import ExtractorPlugin
from .rules import RULE


class Theirs(ExtractorPlugin):
    rule = RULE

    def load(self, name, place):
        return self.loaded(name, place, torch.from_numpy, lambda x: {})
""",
    "rules": "RULE = 'as it is'\n",
    "praise": """
from piflow_bench.contracts.reward import RewardPlugin
from .taste import TASTE


class Theirs(RewardPlugin):
    rule = "brightness"

    def load(self, dataset, place):
        return lambda pictures, condition: TASTE * pictures.mean((1, 2, 3))
""",
    "taste": "TASTE = 1\n",
    "unused": "",
}
ENTRIES = """
[piflow_bench.datasets]
theirs = theirs.data:Theirs
[piflow_bench.teachers]
theirs = theirs.field:Theirs
[piflow_bench.metrics]
theirs = theirs.measure:SPREAD
[piflow_bench.extractors]
theirs = theirs.look:Theirs
[piflow_bench.rewards]
theirs = theirs.praise:Theirs
"""


def forget_theirs():
    """As in a new process."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "theirs"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    all_metrics.cache_clear()
    forget()


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A package of another project with a dataset, a metric and an extractor."""
    folder, info = tmp_path / "theirs", tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    forget_theirs()
    yield folder
    monkeypatch.undo()
    forget_theirs()


def edit(folder, name):
    with (folder / f"{name}.py").open("a") as file:
        file.write("# edited\n")
    forget_theirs()


def plan(*settings):
    (config,) = compose([*SETTINGS, *settings])
    return make_plan(config)


def kinds_changed(before, after):
    gone = {s.name: s.kind for s in before.stages}
    for stage in after.stages:
        gone.pop(stage.name, None)
    return set(gone.values())


METRICS = {"metrics", "partition"}
LOOKS = {"features", "breakdown", "selection", "within", *METRICS}
EVERY = {
    "distill", "sample", "converged", "draw", "features", "scores", "breakdown", "selection",
    "within", "teacher_check", *METRICS,
}  # fmt: skip
CHANGED = {
    "data": EVERY, "helper": EVERY, "field": EVERY - {"draw", "partition"}, "measure": METRICS,
    "weights": METRICS, "look": LOOKS, "rules": LOOKS, "unused": set(),
}  # fmt: skip


@pytest.mark.parametrize("edited", CHANGED)
def test_an_edit_changes_the_keys_of_what_the_module_decides(edited, theirs):
    before = plan(*THEIRS)
    edit(theirs, edited)
    after = plan(*THEIRS)
    assert kinds_changed(before, after) == CHANGED[edited]
    # Rows of one protocol are compared: those of another dataset's or extractor's code are not.
    another = CHANGED[edited] - METRICS != set()
    assert (before.protocol_hash != after.protocol_hash) == another


PLEASED = (
    "+variants.mine={method: dollar, settings: {reward: theirs}}",
    "only=[mine,teacher-euler]",
)


def test_an_edited_reward_trains_anew(theirs):
    def trained():
        return next(s for s in plan(*PLEASED).stages if s.kind == "distill")

    before = trained()
    edit(theirs, "unused")
    assert trained().key == before.key
    edit(theirs, "taste")
    assert trained().key != before.key
    with pytest.raises(SourceChanged, match="the source of reward 'theirs' was edited"):
        unchanged_source(before, Runtime())


def test_a_rewards_settings_are_in_the_keys_of_those_that_it_trains():
    def trained(*settings):
        made = plan(PLEASED[0].replace("theirs", "class-probe"), "only=[mine,kd]", *settings)
        return {s.about["variant"]: s for s in made.stages if s.kind == "distill"}

    before, after = trained(), trained("rewards.class-probe.cells=3")
    assert before["kd"].key == after["kd"].key and "reward" not in before["kd"].task.content
    assert before["mine"].key != after["mine"].key
    known = after["mine"].task.reward
    assert known["name"] == "class-probe" and known["settings"]["cells"] == 3


def test_an_edited_extractor_looks_anew(theirs):
    def looked(name):
        extractor = get_extractor(name)
        return extractor.key, extractor.identity

    first, ours = looked("theirs"), looked("digits")
    edit(theirs, "unused")
    assert looked("theirs") == first
    edit(theirs, "rules")
    again = looked("theirs")
    assert again[0] != first[0] and again[1] != first[1]
    assert looked("digits") == ours and "source" not in ours[1]


def test_our_own_have_no_source_in_their_keys(theirs):
    for stage in plan().stages:
        for kind in ("dataset", "space", "teacher"):
            assert "source" not in stage.task.content.get(kind, {})
        for key in stage.task.content.get("extractors", {}).values():
            assert "source" not in key
        assert all(isinstance(v, int) for v in stage.task.content.get("versions", {}).values())


@pytest.mark.parametrize(
    ("edited", "kind", "words"),
    [
        ("helper", "draw", "dataset 'theirs'"),
        ("field", "converged", "teacher 'theirs'"),
        ("rules", "features", "extractor 'theirs'"),
        ("weights", "metrics", "metric 'spread'"),
    ],
)
def test_code_that_was_edited_after_the_plan_makes_nothing(edited, kind, words, theirs, tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    stage = next(
        s for s in plan(*THEIRS).stages
        if s.kind == kind and (kind != "metrics" or "spread" in s.task.versions)
        and (kind != "features" or "theirs" in s.task.extractors)
    )  # fmt: skip
    edit(theirs, edited)
    status, reason, _ = execute(store, stage, Runtime())
    assert status == "failed" and not store.has(stage)
    assert f"the source of {words} was edited after the run had begun" in reason


def test_files_that_changed_after_the_plan_make_nothing_under_its_keys(tmp_path, monkeypatch):
    """Another picture in the folder, or other weights under the same name."""
    from PIL import Image

    from piflow_bench.pipeline.plan import runtime_of

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def draw(name):
        pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")

    for number in range(40):
        draw(number)
    (config,) = compose(["experiment=images", "profile=smoke", f"dataset.folder={folder}"])
    store = Store(tmp_path / "store")
    store.prepare()
    stage = next(s for s in make_plan(config).stages if s.kind == "draw")
    assert execute(store, stage, runtime_of(config)) == ("done", "", "")
    draw("one more")
    forget()
    store.discard(store.path(stage))
    status, reason, _ = execute(store, stage, runtime_of(config))
    assert status == "failed" and not store.has(stage)
    assert reason == (
        "SourceChanged: the files of dataset 'images' were changed after the run had begun; the "
        "same command plans it anew"
    )


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        ("extractors.digits.weights", "features", "the files of extractor 'digits' were changed"),
        ("student.checkpoint", "published", "the file of published weights was changed ({file})"),
    ],
)
def test_weights_that_changed_after_the_plan_make_nothing(key, kind, words, tmp_path):
    """Those of what describes samples, and published ones."""
    from piflow_bench.pipeline.plan import runtime_of

    file = tmp_path / "weights"
    file.write_text("of the plan")
    (config,) = compose(["profile=smoke", "only=[kd]", "nfes=[1]", f"{key}={file}"])
    stage = next(s for s in make_plan(config, look=False).stages if s.kind == kind)
    assert isinstance(unchanged_source(stage, runtime_of(config)), str)
    file.write_text("of somebody else")
    with pytest.raises(SourceChanged, match=re.escape(words.format(file=file))):
        unchanged_source(stage, runtime_of(config))
