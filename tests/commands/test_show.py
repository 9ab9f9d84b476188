"""`show`: a plugin's settings with what they mean, an experiment with its comments."""

import dataclasses

import pytest
import yaml

from piflow_bench.cli import main
from piflow_bench.commands.show import SETTINGS
from piflow_bench.config.compose import compose
from piflow_bench.config.schema import to_plain
from piflow_bench.evaluation import protocols
from piflow_bench.registry import find

PLUGIN = '''
"""Words of the file.

More words.
"""
from dataclasses import dataclass
from piflow_bench.api import Facts, Method, setting


@dataclass(frozen=True)
class Config:
    lr: float = setting(1e-3, above=0)  # of the student
    law: str = setting("a", choices=("a", "b"))


class Mine(Method):
    """One of mine. It does a thing."""

    Config = Config
    facts = Facts(family="own", paper="arXiv:0000.00000")
'''


def shown(capsys, *arguments):
    code = main(["show", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", sorted(find("method")))
def test_every_field_of_a_method_has_its_type_default_and_bounds(name, capsys):
    code, out, _ = shown(capsys, name)
    assert code == 0 and out.startswith(f"{name}: ")
    cls = find("method")[name].load()
    _, _, settings = out.partition("settings:")  # Of an extractor facts come before them.
    lines = {line.split()[0]: line for line in settings.splitlines() if line.startswith("  ")}
    for field in dataclasses.fields(cls.Config):
        default = field.default
        assert default is dataclasses.MISSING or str(default) in lines[field.name]
    assert not cls.facts.paper or cls.facts.paper in out


def test_meaning_stands_beside_bounds_and_choices(capsys):
    _, out, _ = shown(capsys, "dmd2")
    assert "fake-score updates per generator update (TTUR) (at least 1)" in out
    assert "share of the network's blocks that the discriminator looks through" in out  # Above it.
    assert "constant | cosine | linear" in out
    _, out, _ = shown(capsys, "meanflow")
    assert "sampling.KEY=VALUE" in out and "time warp of the grid (above 0)" in out


@pytest.mark.parametrize("name", protocols.names())
def test_a_protocol_is_shown_with_its_rules(name, capsys):
    code, out, _ = shown(capsys, "protocol", name)
    title, *_, rules = out.partition(f"settings: protocol={name}, and in runs protocol.KEY=VALUE")
    protocol = protocols.load_protocol(name)
    assert code == 0 and title.strip() == f"{name}: {protocol.title}" and protocol.title
    assert yaml.safe_load(rules) == to_plain(protocol)


def test_a_file_is_shown_as_what_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extractors: [digits]\nmetrics: [fd]\n")
    (tmp_path / "my.yaml").write_text("defaults: [digits]\n")
    code, out, err = shown(capsys, "./mine.yaml")
    assert code == 2 and not out and err.count("\n") == 1
    experiment, protocol = err.partition("shown by ")[2].strip().split(", a protocol's by show ")
    assert (experiment, protocol) == ("experiment=./mine.yaml", "protocol ./mine.yaml")
    code, out, _ = shown(capsys, *protocol.split())
    assert code == 0 and "settings: protocol=./mine.yaml, and in runs protocol.KEY=VALUE" in out
    code, out, _ = shown(capsys, experiment.replace("mine", "my"))
    assert code == 0 and out.startswith("name: my\n")


def test_a_plugin_of_ones_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(PLUGIN)
    code, out, _ = shown(capsys, "mine", f"plugins={tmp_path}")
    assert code == 0 and "mine: One of mine" in out
    assert "of the student (above 0)" in out and "a | b" in out and "0000.00000" in out


OTHERS = [(kind, name) for kind in SETTINGS if kind != "method" for name in find(kind)]


@pytest.mark.parametrize(("kind", "name"), OTHERS, ids=[" ".join(o) for o in OTHERS])
def test_plugins_of_other_kinds_are_shown_alike(kind, name, capsys):
    code, out, _ = shown(capsys, kind, name)
    assert code == 0 and out.startswith(f"{name}: ")
    cls = find(kind)[name].load()
    _, _, settings = out.partition("settings:")  # Of an extractor facts come before them.
    lines = {line.split()[0]: line for line in settings.splitlines() if line.startswith("  ")}
    assert list(lines) == [field.name for field in dataclasses.fields(cls.Config)]
    assert all(str(f.default) in lines[f.name] for f in dataclasses.fields(cls.Config))


def test_how_settings_of_other_kinds_are_given_stands_above_them(capsys):
    _, out, _ = shown(capsys, "dit")  # No method is called so.
    assert "teacher.KEY=VALUE" in out and "network's time at noise (above 0)" in out
    assert "checkpoint     Location | None  hf://" in out
    _, out, _ = shown(capsys, "extractor", "clip")
    assert "extractors.clip.KEY=VALUE" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmd"], "show dmd: no plugin is called so; did you mean 'dmd2'?"),
        (["kd", "dmd2"], "show kd dmd2: no such kind"),
        (["method", "kd", "dmd2"], "name one plugin"),
        (["teacher", "dgits"], "show teacher dgits: no such teacher; did you mean 'digits'?"),
        (["digits"], "dataset, teacher, extractor are called so; say which, as in show dataset"),
        (["kd", "nfes=[1]"], "takes plugins=PATH alone"),
        (["protocol", "dgits"], "protocol=dgits: no such protocol; did you mean 'digits'?"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, words, capsys):
    code, out, err = shown(capsys, *arguments)
    assert code == 2 and words in err and not out


@pytest.mark.parametrize(
    "settings", [[], ["experiment=imagenet_2nfe"], ["title='a: b # c'", "profile=smoke"]]
)
def test_an_experiment_with_comments_is_still_its_configuration(settings, capsys):
    code, out, _ = shown(capsys, *settings)
    (config,) = compose(settings)
    assert code == 0 and yaml.safe_load(out) == to_plain(config)
    lines = {line.split(":")[0]: line for line in out.splitlines()}
    assert lines["  curve_samples"].endswith("  # at earlier checkpoints of the budget")
    assert "gradient norm; 0 is off" in lines["  clip"]
