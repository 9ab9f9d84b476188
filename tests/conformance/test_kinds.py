"""`check` of datasets, spaces and teachers: ours pass, what is wrong with others is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from piflow_bench.cli import main
from piflow_bench.commands.arguments import kind_and_name
from piflow_bench.conformance.kinds import CHECKS, check
from piflow_bench.conformance.results import FAILED, OK, SKIPPED
from piflow_bench.errors import CHECK_FAILED, UserError
from piflow_bench.errors import OK as EXIT_OK
from piflow_bench.registry import find

PLUGINS = Path(__file__).parents[1] / "plugins"


def plugins(kind):
    return f"plugins={PLUGINS / f'{kind}s'}"


def failures(results):
    """Reasons by test; of several lines of one test all."""
    found = {}
    for r in results:
        if r.status == FAILED:
            found[r.test] = f"{found[r.test]}\n{r.reason}" if r.test in found else r.reason
    return found


def status(results):
    return {r.test: r.status for r in results}


OURS = [
    ("dataset", "digits"),
    ("dataset", "digits", "space=pixels", "space.levels=4"),
    ("dataset", "mixture2d"),
    ("dataset", "checkerboard2d"),
    ("space", "pixels"),
    ("space", "grey-levels", "levels=3"),
    ("space", "points"),
    ("teacher", "digits", "dataset=digits"),
    ("teacher", "closed-form", "backbone_steps=5"),
    ("teacher", "trained", "dim=16", "depth=1"),
]


@pytest.mark.parametrize("given", OURS, ids=" ".join)
def test_ours_pass(given):
    kind, name, *settings = given
    results = check(kind, name, settings)
    assert failures(results) == {}
    assert sum(r.status == OK for r in results) > 5


BAD = [
    # kind, plugin, failed test, part of its reason
    ("dataset", "pixels_to_255", "samples", "train has images in [0, 255]; they lie in [-1, 1]"),
    ("dataset", "labels_from_one", "labels", "train has labels 1 to 3; of 3 classes they are 0"),
    ("dataset", "conditions_by_place", "conditions", "depend on more than seed and index"),
    ("dataset", "unseeded_rows", "rows without draws", "other samples when called again"),
    ("dataset", "rows_by_batch", "rows with draws", "depends on the batch a row is in"),
    ("dataset", "changing_digest", "digest", "two loads have other digests"),
    ("dataset", "not_its_law", "label law", "label_law is 'uniform', but of 2000 labels 0 repeat"),
    ("dataset", "held_out_in_training", "held-out rows", "32 of 32 equal a training row"),
    ("space", "float_pictures", "8x8x1: pictures", "gives float64 (16, 8, 8, 1); pictures are"),
    ("space", "pictures_by_batch", "8x8x1: pictures", "depends on the batch"),
    (
        "space",
        "wraps_around",
        "8x8x1: outside the range",
        "samples at -1.5 differ from those at -1",
    ),
    ("space", "encodes_to_one", "8x8x1: encode", "from p, more than one of its"),
    (
        "space",
        "half_as_large",
        "8x8x1: load",
        "pictures_of((1, 4, 4)) is (4, 4, 1), but these samples are of pictures of 8x8x1",
    ),
    ("space", "other_size", "8x8x1: pictures", "gives 4x4x1 for a space of pictures of 8x8x1"),
    ("teacher", "half_a_sample", "digits: load", "gives (2, 1, 4, 8) for (2, 1, 8, 8)"),
    ("teacher", "other_rows", "digits: rows", "depends on the rows beside it"),
    ("teacher", "not_finite", "digits: velocity", "is not finite at t = 0"),
    (
        "teacher",
        "identity_reads_weights",
        "identity",
        "reads weights (safetensors.torch.load_file)",
    ),
]
FITS = "digits: a teacher of these data"
BAD += [
    ("teacher", "reversed_time", FITS, "its time runs from noise to data"),
    ("teacher", "predicts_noise", FITS, "it predicts noise, not velocity"),
    ("teacher", "wrong_units", FITS, "its time runs over 0..1000"),
    ("teacher", "wrong_scale", FITS, "its data are 2 times these: another scale"),
    ("teacher", "labels_beside", FITS, "its labels are these -1"),
]
ALONE = {"half_a_sample", "half_as_large", "held_out_in_training"}
"""After whose fault little else can be looked at."""


@pytest.mark.parametrize(("kind", "name", "test", "reason"), BAD, ids=[b[1] for b in BAD])
def test_bad_ones_are_named(kind, name, test, reason):
    beside = ["dataset=digits"] if kind == "teacher" else []
    results = check(kind, name, [*beside, plugins(kind)])
    failed = failures(results)
    assert reason in failed[test]
    # What does not depend on the fault still passes.
    assert status(results)["loads"] == OK
    assert name in ALONE or sum(r.status == OK for r in results) >= 4


BACKBONES = [
    ("unseeded_weights", "same weights", "two loads give other weights"),
    ("trains_on", "frozen", "in the mode of training"),
    ("project_one", "heads", "project() of 3 outputs of 1 channels gives (3, 1, 1, 4, 4)"),
    ("project_mixes", "heads", "project() mixes several outputs"),
    ("duration_changes", "duration", "changes what the network gives before any training"),
    ("duration_ignored", "duration", "no gradient reaches what add_duration() added"),
    ("guidance_ignored", "guidance input", "no gradient reaches what add_guidance() added"),
    ("false_width", "heads", "embedding_dim is 24, trunk() gives (3, 16)"),
    ("false_features", "features", "features() at depth 1 gives (3, 16, 2, 2), not (3, 2, 2, 16)"),
]


@pytest.mark.parametrize(("name", "test", "reason"), BACKBONES, ids=[b[0] for b in BACKBONES])
def test_bad_backbones_are_named_on_stand_ins(name, test, reason):
    results = check("teacher", name, [plugins("teacher")])
    failed = failures(results)
    assert reason in failed[f"images: {test}"]
    assert set(failed) == {f"images: {test}", f"images without labels: {test}"}


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_the_bad_ones_are_but_for_that_right(kind, tmp_path):
    """The good base of each passes, so that a failure is the fault's."""
    text = (PLUGINS / f"{kind}s" / "_base.py").read_text()
    plugin = f"{kind.capitalize()}Plugin"
    (tmp_path / "base.py").write_text(text)
    assert f"class Base({plugin})" in text
    assert failures(check(kind, "base", [f"plugins={tmp_path}"])) == {}


def teacher(tmp_path, base, body="    pass\n", imports="TeacherPlugin"):
    (tmp_path / "mine.py").write_text(
        f"from piflow_bench.api import {imports}\n"
        f"from tests.plugins.teachers._base import {base}\n\n\n"
        f'class Mine({base}, TeacherPlugin):\n    """Mine."""\n\n{body}'
    )
    return f"plugins={tmp_path}"


def test_the_bases_of_the_bad_teachers_pass(tmp_path):
    given = teacher(tmp_path, "OfDigits")
    assert failures(check("teacher", "mine", ["dataset=digits", given])) == {}


def test_what_a_network_lacks_is_said_with_whom_it_cannot_serve(tmp_path):
    given = teacher(tmp_path, "OfDigits")
    reasons = {r.test: r.reason for r in check("teacher", "mine", ["dataset=digits", given])}
    missing, _, methods = reasons["digits: duration"].partition("; cannot serve ")
    assert missing == "the network has no add_duration"
    asking = {n for n, p in find("method").items() if "duration" in p.load().facts.backbone}
    assert methods == ", ".join(sorted(asking)) and {"freeflow", "meanflow"} <= asking
    assert "trunk, output_layer, project" in reasons["digits: heads"]
    assert reasons["digits: heads"].endswith("cannot serve piflow")


def test_what_a_teacher_refuses_is_skipped_and_one_must_be_served(tmp_path):
    refuse = "    def look(self, dataset):\n        raise UserError(f'not {dataset.shape}')\n"
    given = teacher(tmp_path, "OfPictures", refuse, "TeacherPlugin, UserError")
    results = check("teacher", "mine", [given])
    assert failures(results) == {"datasets": results[-1].reason}
    assert "dataset=NAME" in results[-1].reason
    assert "refuses them: not (2,)" in [r.reason for r in results if r.status == SKIPPED]
    with pytest.raises(UserError, match=r"not \(1, 8, 8\)"):
        check("teacher", "mine", ["dataset=digits", given])


def test_another_guidance_than_the_settings_is_named(tmp_path):
    body = (
        "    Config = Guided\n\n"
        "    def load(self, dataset, made=None):\n"
        "        return super().load(dataset, made).guided(Guidance(3.0))\n"
    )
    given = teacher(tmp_path, "OfPictures", body, "Guidance, Guided, TeacherPlugin")
    failed = failures(check("teacher", "mine", [given]))
    assert "a teacher of Guidance(scale=3.0" in failed["images: guidance"]


def test_a_note_on_a_teacher_is_no_failure(tmp_path):
    """Random weights know less of the data than their mean and variance, which may be meant."""
    given = teacher(tmp_path, "OfPictures")
    results = check("teacher", "mine", ["dataset=digits", given])
    (look,) = [r for r in results if r.test == FITS]
    assert look.status == SKIPPED and "less of these data than their mean" in look.reason


def test_a_teacher_with_a_file_and_a_space_beside_it(tmp_path):
    """Settings of its own without a prefix, files literally, others' with theirs."""
    from piflow_bench.files.weights import read_weights
    from piflow_bench.teachers.digits import FILE

    folder = tmp_path / "a, b=[c]"
    folder.mkdir()
    save_file(read_weights(FILE).state, folder / "w.safetensors")
    given = ["dataset=digits", "space=pixels", "space.levels=9", "guidance=2"]
    results = check("teacher", "digits", [f"checkpoint={folder / 'w.safetensors'}", *given])
    assert failures(results) == {}
    assert {r.test: r.reason for r in results}["digits: guidance"] == "scale 2"


CONFIGS = {
    "not a dataclass": ("class Config:\n    a: int = 1\n", "Config must be a dataclass"),
    "not frozen": ("@dataclass\nclass Config:\n    a: int = 1\n", "Config must be frozen"),
    "no default": ("@dataclass(frozen=True)\nclass Config:\n    a: int\n", "a has no default"),
    "bad default": (
        "@dataclass(frozen=True)\nclass Config:\n    a: int = 0\n\n"
        "    def __post_init__(self):\n        raise ValueError('a is never right')\n",
        "Config's defaults: space: a is never right",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_are_none(case, tmp_path):
    config, reason = CONFIGS[case]
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom piflow_bench.api import SpacePlugin\n\n\n"
        f'{config}\n\nclass Mine(SpacePlugin):\n    """Mine."""\n\n    Config = Config\n'
    )
    results = check("space", "mine", [f"plugins={tmp_path}"])
    assert reason in failures(results)["loads"] and len(results) == 1


IDENTITIES = {
    "no docstring": ("    pass\n", "loads", "docstring"),
    "a tensor": (
        '    """M."""\n    def identity(self):\n        return {"w": {1}}\n',
        "identity",
        "w",
    ),
    "another": (
        '    """M."""\n    def identity(self):\n        return {"w": id(object()), "n": time()}\n',
        "identity",
        "differs when asked again",
    ),
    "requirements": (
        '    """M."""\n    def requirements(self):\n        return ["a file"]\n',
        "requirements",
        "gives str, not Requirement",
    ),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_what_every_plugin_says_of_itself(case, tmp_path):
    body, test, reason = IDENTITIES[case]
    (tmp_path / "mine.py").write_text(
        "from time import time_ns as time\nfrom piflow_bench.api import SpacePlugin\n"
        f"from tests.plugins.spaces._base import Base\n\n\nclass Mine(Base, SpacePlugin):\n{body}"
    )
    assert reason in failures(check("space", "mine", [f"plugins={tmp_path}"]))[test]


def test_a_missing_file_is_the_users_to_mend():
    with pytest.raises(UserError, match="dataset.latents: not given; python -m piflow_bench prep"):
        check("dataset", "imagenet", [])
    with pytest.raises(UserError, match="teacher.checkpoint=/nowhere/w: no such file"):
        check("teacher", "dit", ["checkpoint=/nowhere/w"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("dataset", "digts"), "no dataset is called 'digts'; did you mean 'digits'?"),
        (("space", "pixels", "level=3"), "space.level: no such setting; did you mean 'levels'?"),
        (("space", "pixels", "levels=1"), "space.levels=1: must be at least 2"),
        (("teacher", "digits", "dataset=digts"), "no dataset is called 'digts'"),
        (("teacher", "digits", "dataset.x=1"), "dataset=NAME is needed beside its settings"),
        (("teacher", "digits", "space=pixels"), "dataset=NAME is needed beside it"),
        (("teacher", "digits", "plugins=/nowhere"), "no such file or folder"),
    ],
)
def test_the_users_mistakes_are_user_errors(given, message):
    kind, name, *settings = given
    with pytest.raises(UserError) as caught:
        check(kind, name, settings)
    assert message in str(caught.value)


def test_a_name_without_its_kind():
    kinds = list(CHECKS)
    assert kind_and_name("check", ["kd", "lr=1"], kinds) == ("method", "kd", ["lr=1"])
    assert kind_and_name("check", ["teacher"], kinds)[0] == "method"  # A method of that name.
    assert kind_and_name("check", ["dit"], kinds)[0] == "teacher"
    assert kind_and_name("check", ["space", "pixels"], kinds) == ("space", "pixels", [])
    assert kind_and_name("check", ["reversed_time", plugins("teacher")], kinds)[0] == "teacher"
    for given, words in (
        (["digits"], "dataset, teacher, extractor are called so; say which"),
        (["pixel"], "no plugin is called so; did you mean 'pixels'?"),
        (["tacher", "digits"], "no such kind; did you mean 'teacher'?"),
        (["a", "b", "c"], "name one plugin"),
        (["plugins=/"], "name one plugin"),
    ):
        with pytest.raises(UserError) as caught:
            kind_and_name("check", given, kinds)
        assert words in str(caught.value)


def test_the_command_prints_the_table_and_ends_with_its_code(capsys):
    assert main(["check", "space", "pixels"]) == main(["check", "mixture2d"]) == EXIT_OK
    assert "within one of 256 levels" in capsys.readouterr().out
    assert main(["check", "space", "float_pictures", plugins("space")]) == CHECK_FAILED
    out = capsys.readouterr().out
    assert "check float_pictures" in out and "8x8x1: pictures" in out


def test_draws_of_the_caller_and_its_threads_stay():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    check("teacher", "unseeded_weights", [plugins("teacher")])
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


TRANSLATED = """
from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def velocity(self, output, x, t):
        return x[:, None] - output

    def forward(self, x, t, condition, duration=None, guidance=None):
        return FORWARD


class Mine(OfPictures, TeacherPlugin):
    '''A network that predicts data, as velocities.'''

    network = Network
"""


def test_a_network_that_predicts_another_thing_translates_it_in_velocity(tmp_path):
    given = f"plugins={tmp_path}"
    (tmp_path / "right.py").write_text(
        TRANSLATED.replace("FORWARD", "x - super().forward(x, t, condition, duration, guidance)")
    )
    assert failures(check("teacher", "right", [given])) == {}
    (tmp_path / "wrong.py").write_text(
        TRANSLATED.replace("FORWARD", "super().forward(x, t, condition, duration, guidance)")
    )
    failed = failures(check("teacher", "wrong", [given]))
    assert failed["images: heads"] == (
        "the network is not velocity(project(output_layer, hidden, 1), x, t)"
    )
