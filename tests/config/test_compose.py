"""Composing and validating experiments: every mistake is refused before any work, in one line."""

import json
import shutil
import sys
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file

from piflow_bench.cli import main
from piflow_bench.config.compose import compose, expand
from piflow_bench.config.paths import split_paths
from piflow_bench.config.schema import keys_that_set
from piflow_bench.data.digits import ASSETS
from piflow_bench.errors import UserError
from piflow_bench.settings import build_dataclass

TEACHER = ASSETS / "digits_teacher.safetensors"
POINTS = ("analytic_mixture2d", "analytic_checkerboard2d")


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Run with settings that must be refused: exit code 2, one line, nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIFLOW_BENCH_STORE", raising=False)

    def run(*settings):
        before = sorted(tmp_path.rglob("*"))
        assert main(["run", "profile=smoke", *settings]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        assert not (tmp_path / "runs").exists()
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return run


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        # unknown names, with the nearest
        ("experiment=digitz", ["experiment=digitz", "'digits'"]),
        ("profile=smok", ["profile=smok", "'smoke'"]),
        ("launcher=lokal", ["launcher=lokal", "'local'"]),
        ("nfe=[1]", ["nfe:", "'nfes'"]),
        ("profil=smoke", ["profil:", "'profile'"]),
        ("family.leader=kdd", ["family.leader=kdd", "did you mean 'kd'"]),
        ("family.entries.4=[kd,dmd]", ["family.entries.4=dmd", "did you mean 'dmd2'"]),
        ("family.entries.1=[kd,kd]", ["family.entries.1=['kd', 'kd']", "distinct"]),
        ("family.entries.1=[teacher-heun,kd]", ["teacher-heun", "entered at NFE [4] alone"]),
        ("protocol.questions=[imitation,first_half]", ["first_half without the other half"]),
        ("family.entries.one=[kd,dmd2]", ["family.entries.one: must be an NFE"]),
        ("family.entries=[kd,dmd2]", ["given one by one: family.entries.KEY=VALUE"]),
        ("family.entries={1:[kd]}", ["family.entries: is given one by one: family.entries.1="]),
        ("training.bach=3", ["training.bach", "'training.batch'"]),
        ("training.ema.gama=3", ["training.ema.gama", "'training.ema.gamma'"]),
        ("budget.amont=3", ["budget.amont", "'budget.amount'"]),
        ("variants.kd.setings.lr=1", ["variants.kd.setings.lr", "'variants.kd.settings'"]),
        ("variants.kd.settings.lrr=1", ["variants.kd.settings.lrr", "'lr'"]),
        ("variants.piflow-gm8.sampling.temprature=1", ["sampling.temprature", "'temperature'"]),
        ("variants.dmd2.sampling.shift=2", ["variants.dmd2.sampling.shift", "has none"]),
        ("variants.kd.training.bach=8", ["variants.kd.training.bach", "'batch'"]),
        ("variants.kdd.settings.lr=1", ["variants.kdd", "'kd'"]),
        ("variants.kd.method=kdd", ["'kdd'", "'kd'"]),
        ("dataset.name=digit", ["'digit'", "'digits'"]),
        ("dataset=digit", ["dataset=digit", "'digits'"]),
        ("teacher=digit", ["teacher=digit", "'digits'"]),
        ("space=pixel", ["space=pixel", "'pixels'"]),
        ("teacher.guidence=1", ["teacher.guidence", "'guidance'"]),
        ("dataset.sise=1", ["dataset.sise", "no such setting"]),
        ("space.level=5", ["space.level", "'levels'"]),
        ("extractors.digits.weight=x", ["extractors.digits.weight", "'weights'"]),
        ("+foo=1", ["foo", "no such setting"]),
        ("+training.bach=1", ["training.bach", "'batch'"]),
        ("hydra.searchpath=[x]", ["hydra.searchpath", "no such setting"]),
        ("only=[piflow-gm9]", ["only=piflow-gm9", "'piflow-gm8'"]),
        ("protocol.metrics=[fdd]", ["protocol.metrics=fdd", "'fd'"]),
        ("protocol.curve_metrics=[recal]", ["protocol.curve_metrics=recal", "'recall'"]),
        ("protocol.settings.kk=3", ["protocol.settings.kk", "'k'"]),
        ("protocol.extractors=[pixel]", ["'pixel'", "digits-pixels"]),
        ("protocol.questions=[imitate]", ["imitate", "'imitation'"]),
        ("protocol.primary_quality=recal", ["protocol.primary_quality=recal", "'recall'"]),
        ("converged.solver=eulr", ["converged.solver=eulr", "'euler'"]),
        ("budget.unit=flops", ["budget.unit=flops", "tfe, images or seconds"]),
        ("training.precision=fp8", ["training.precision=fp8", "fp32, bf16 or fp64"]),
        # wrong types
        ("training.batch=abc", ["training.batch=abc", "Integer"]),
        ("training.batch=1.5", ["training.batch=1.5", "Integer"]),
        ("nfes=3", ["nfes=3", "nfes=[3]"]),
        (
            "rewards=[class-probe]",
            ["rewards=[class-probe]: it holds settings", "rewards.KEY=VALUE"],
        ),
        ("extractors=digits", ["extractors=digits: it holds settings", "extractors.KEY=VALUE"]),
        ("nfes=[1,a]", ["nfes=[1,a]", "'a'", "Integer"]),
        ("aa=maybe", ["aa=maybe", "bool"]),
        ("variants.kd.settings.lr=fast", ["variants.kd.settings.lr=fast", "float"]),
        ("variants.kd.settings.pairs=2.5", ["variants.kd.settings.pairs=2.5", "int"]),
        ("teacher.guidance=abc", ["guidance", "abc"]),
        # impossible values
        ("nfes=[-1]", ["nfes=-1", "at least 1"]),
        ("nfes=[0]", ["nfes=0", "at least 1"]),
        ("nfes=[]", ["nfes=[]", "not empty"]),
        ("nfes=[1,1]", ["nfes=[1, 1]", "distinct"]),
        ("variants.kd.nfes=[-4]", ["variants.kd.nfes=-4", "at least 1"]),
        ("protocol.extractors=[]", ["protocol.extractors=[]", "at least one"]),
        ("protocol.questions=[]", ["protocol.questions=[]", "at least one", "data"]),
        ("protocol.curve_metrics=[]", ["protocol.curve_metrics=[]", "at least one metric"]),
        ("protocol.extractors=[digits,digits]", ["protocol.extractors=", "distinct"]),
        ("protocol.extractors=[points]", ["protocol.extractors=points", "describes points"]),
        ("protocol.questions=[data,data]", ["protocol.questions=", "distinct"]),
        ("protocol.metrics=[fd,recall,fd]", ["protocol.metrics=", "distinct"]),
        ("variants.teacher-euler.sampling.guidance=[1,1.0]", ["guidance=[1, 1.0]", "distinct"]),
        ("variants.kd.nfes=[]", ["variants.kd.nfes=[]", "null", "only=["]),
        ("variants.teacher-euler.sampling.guidance=[]", ["sampling.guidance=[]", "at least one"]),
        ("variants.piflow-gm8.sampling.temperature=[]", ["temperature=[]", "at least one"]),
        ("train_seeds=[0,0]", ["train_seeds=[0, 0]", "distinct"]),
        ("train_seeds=[-1]", ["train_seeds=-1", "at least 0"]),
        ("sample_seed=-1", ["sample_seed=-1", "at least 0"]),
        ("only=[]", ["only=[]", "at least one"]),
        ("launcher.workers=0", ["launcher.workers=0", "at least 1"]),
        ("launcher.name=cloud", ["launcher.name=cloud", "local"]),
        ("converged.steps=0", ["converged.steps=0", "at least 1"]),
        ("shard=0", ["shard=0", "at least 1"]),
        ("sample_batch=0", ["sample_batch=0", "at least 1"]),
        ("training.batch=-4", ["training.batch=-4", "at least 1"]),
        ("training.threads=0", ["training.threads=0", "at least 1"]),
        ("budget.amount=-3", ["budget.amount=-3", "above 0"]),
        ("budget.checkpoints=[0.5]", ["budget.checkpoints", "end with 1"]),
        ("protocol.samples=3", ["protocol.samples=3", "at least 20"]),
        ("protocol.metrics=[fd,recall,cmmd]", ["cmmd", "extractor clip", "mmd_rbf_unit"]),
        ("protocol.metrics=[]", ["protocol.metrics=[]", "at least one"]),
        ("protocol.settings.k=-1", ["protocol.settings.k=-1", "at least 1"]),
        ("name=../up", ["name=../up", "letters"]),
        # not of the right form
        ("nfes", ["'nfes'", "key=value"]),
        ("nfes=[", ["nfes=["]),
        ("runs=", ["runs=", "needs a path"]),
        ("samples=x", ["samples=", "not a setting"]),
        # files
        ("plugins=missing folder", ["plugins=missing folder", "no such file or folder"]),
        ("teacher.checkpoint=missing.safetensors", ["missing.safetensors", "no such file"]),
        ("extractors.digits.weights=none/x.pth", ["none/x.pth", "no such file"]),
        # data and teachers that do not go together
        ("teacher=closed-form", ["teacher=closed-form", "digits has no closed form"]),
        # names of earlier versions
        ("checkpoint=x", ["checkpoint: is called teacher.checkpoint now"]),
        ("dataset.settings.guidance=2", ["dataset.settings.guidance: ", "teacher.guidance now"]),
        ("dataset.settings.latents=x", ["dataset.settings.latents: ", "dataset.latents now"]),
        ("dataset.settings.autoencoder=x", ["space.autoencoder now"]),
        ("dataset.settings.autoencoder_dtype=x", ["space.dtype now"]),
        ("+dataset.settings.weights=x", ["extractors.inception.weights now"]),
        ("dataset.settings.generated=x", ["profile=smoke, which has it"]),
    ],
)
def test_one_line_names_key_value_and_fix(refused, setting, words):
    message = refused(setting)
    for word in words:
        assert word in message, message


def test_the_twin_of_a_variant_has_a_name_of_its_own(site, refused):
    text = HEAD + "name: twin\nvariants:\n  a: {method: kd}\n  a-aa: {method: kd}\n"
    site.install("third_party_twin", {"twin": text})
    assert "aa=true: enters a again as a-aa" in refused("experiment=twin", "aa=true")


def test_a_variant_is_named_without_a_dot(refused):
    assert "letters, digits" in refused("+variants={v1.5: {method: kd}}")


def test_an_nfe_that_a_variant_cannot_do(refused):
    message = refused("nfes=[1,4]", "variants.teacher-euler-guided.nfes=[1]")
    for word in ("variants.teacher-euler-guided", "NFE 1", "even", ".nfes"):
        assert word in message


def test_no_chosen_variant_at_any_nfe(refused):
    message = refused("only=[teacher-heun]", "nfes=[1]")
    assert "teacher-heun: [4]" in message


def test_a_mistake_in_one_swept_experiment_stops_all(refused):
    assert "NFE 1" in refused(
        "nfes=[4],[1]", "variants.teacher-heun.nfes=null", "variants.teacher-euler-guided.nfes=null"
    )


class TestCheckpoint:
    def test_truncated(self, refused, tmp_path):
        (tmp_path / "cut.safetensors").write_bytes(TEACHER.read_bytes()[:20000])
        message = refused("teacher.checkpoint=cut.safetensors")
        assert "cut.safetensors" in message
        assert "not readable safetensors" in message

    def test_of_another_network(self, refused):
        path = ASSETS / "digits_judge.safetensors"
        message = refused(f"teacher.checkpoint={path}")
        assert str(path) in message
        assert "another network" in message

    def test_of_other_sizes(self, refused, tmp_path):
        from piflow_bench.data.digits import teacher_network

        save_file(teacher_network(32, 2).state_dict(), tmp_path / "small.safetensors")
        assert "another network" in refused("teacher.checkpoint=small.safetensors")

    @pytest.mark.parametrize("name", ["teacher.pt", "teacher.safetensors"])
    def test_pickled_is_never_unpickled(self, refused, tmp_path, name):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        torch.save({"weights": Trap()}, tmp_path / name)
        message = refused(f"teacher.checkpoint={name}")
        assert name in message
        assert ("save_file" if name.endswith(".pt") else "not readable safetensors") in message
        assert not (tmp_path / "sprung").exists()

    def test_a_folder(self, refused, tmp_path):
        (tmp_path / "folder").mkdir()
        assert "no diffusion_pytorch_model.safetensors in" in refused("teacher.checkpoint=folder")


class TestUnwritable:
    def test_runs_below_a_file(self, refused, tmp_path):
        (tmp_path / "file").write_text("")
        message = refused("runs=file/runs")
        assert "runs=file/runs" in message
        assert "another runs=PATH" in message

    def test_runs_below_a_file_with_a_good_store(self, refused, tmp_path):
        (tmp_path / "file").write_text("")
        assert "runs=file/runs" in refused("runs=file/runs", "store=good")

    @pytest.mark.parametrize("place", ["file/store", "/proc/store"])
    def test_store(self, refused, tmp_path, place):
        (tmp_path / "file").write_text("")
        message = refused(f"store={place}", "runs=results/of all")
        assert place in message
        assert "another store=PATH" in message

    def test_store_from_the_environment(self, refused, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_STORE", "/proc/store")
        assert "/proc/store" in refused()


class Site:
    """A third party's configuration package, installed in a folder on sys.path."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def install(self, name, experiments, init=""):
        package = self.folder / name
        (package / "experiment").mkdir(parents=True)
        (package / "__init__.py").write_text(init)
        (package / "experiment" / "__init__.py").write_text("")
        for file, text in experiments.items():
            (package / "experiment" / f"{file}.yaml").write_text(text)
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[piflow_bench.configs]\n{name} = {name}\n")
        if str(self.folder) not in sys.path:
            self.monkeypatch.syspath_prepend(str(self.folder))


@pytest.fixture
def site(tmp_path_factory, monkeypatch):
    return Site(tmp_path_factory.mktemp("site"), monkeypatch)


HEAD = """# @package _global_
defaults:
  - override /dataset: digits
  - override /protocol: digits
"""


class TestThirdPartyExperiments:
    def test_compose_and_are_listed(self, site, capsys):
        text = HEAD + "name: mine\nnfes: [2]\nvariants:\n  a: {method: kd}\n"
        site.install("third_party_good", {"mine": text})
        (config,) = compose(["experiment=mine", "nfes=[3]"])
        assert (config.name, config.nfes, list(config.variants)) == ("mine", [3], ["a"])
        assert main(["list", "experiments"]) == 0
        assert "third_party_good" in capsys.readouterr().out

    def test_two_variants_of_one_name(self, site, refused):
        text = HEAD + "name: twice\nvariants:\n  a: {method: kd}\n  a: {method: dmd2}\n"
        site.install("third_party_twice", {"twice": text})
        message = refused("experiment=twice")
        assert "duplicate key a" in message
        assert "twice.yaml" in message

    def test_malformed_yaml(self, site, refused):
        site.install("third_party_malformed", {"malformed": HEAD + "name: [x\n"})
        assert "malformed.yaml" in refused("experiment=malformed")

    def test_an_unknown_key_in_a_file(self, site, refused):
        text = HEAD + "name: odd\nvariants:\n  a: {method: kd, setings: {}}\n"
        site.install("third_party_odd", {"odd": text})
        assert "setings" in refused("experiment=odd")

    def test_a_variant_without_a_method(self, site, refused):
        text = HEAD + "name: none\nvariants:\n  a: {nfes: [1]}\n"
        site.install("third_party_none", {"none": text})
        assert "variants.a.method" in refused("experiment=none")

    def test_a_broken_package_does_not_break_the_others(self, site, capsys):
        site.install("third_party_broken", {}, init="raise RuntimeError('no luck')")
        (config,) = compose([])
        assert config.name == "digits"
        error = capsys.readouterr().err
        assert "third_party_broken" in error
        assert "no luck" in error

    def test_a_broken_package_does_not_break_the_list(self, site, capsys):
        site.install("third_party_broken_too", {}, init="raise RuntimeError('no luck')")
        site.install("third_party_protocols", {})
        shutil.rmtree(site.folder / "third_party_protocols" / "experiment")
        assert main(["list", "experiments"]) == 0
        captured = capsys.readouterr()
        assert "digits_full" in captured.out
        assert "no luck" in captured.err


class TestPaths:
    NAMES = ("a b", "[x]", "a,b", "k=v", "{a}", "it's", "$HOME", "ä")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("key", ["runs", "store"])
    def test_are_literal(self, key, name):
        (config,) = compose([f"{key}=/tmp/{name}/x"])
        assert getattr(config, key) == f"/tmp/{name}/x"

    @pytest.mark.parametrize("name", NAMES)
    def test_of_plugins_are_literal_where_they_are_there(self, name, tmp_path):
        (tmp_path / name).mkdir()
        (config,) = compose([f"plugins={tmp_path / name}"])
        assert config.plugins == str(tmp_path / name)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "key",
        ["teacher.checkpoint", "dataset.latents", "space.autoencoder", "extractors.digits.weights"],
    )
    def test_of_what_plugins_read_are_literal(self, key, name, tmp_path):
        (tmp_path / name).mkdir()
        (config,) = compose([f"{key}={tmp_path / name}"])
        group, *inner, last = key.split(".")
        settings = getattr(config, group)
        for each in inner:
            settings = settings[each]
        assert settings[last] == str(tmp_path / name)

    def test_of_plugins_may_be_swept_and_numbers_are_numbers(self):
        found = compose(["teacher.checkpoint=/tmp/a,/tmp/b"])
        assert [c.teacher["checkpoint"] for c in found] == ["/tmp/a", "/tmp/b"]
        (config,) = compose(["teacher.guidance=2"])
        assert config.teacher["guidance"] == 2

    def test_on_the_hub_are_literal(self):
        address = "hf://owner/name@main/a=b.pth"
        (config,) = compose([f"teacher.checkpoint={address}"])
        assert config.teacher["checkpoint"] == address

    def test_the_rest_is_an_override(self):
        assert split_paths(["runs=a,b", "nfes=[1]"]) == (["nfes=[1]"], {"runs": "a,b"})

    def test_flags_are_refused(self):
        with pytest.raises(UserError, match="--plan.*key=value"):
            split_paths(["--plan"])


class TestCompose:
    def test_the_default(self):
        (config,) = compose([])
        assert config.name == "digits"
        assert set(config.variants) > {"piflow-gm8", "meanflow", "dmd2", "kd", "teacher-euler"}

    def test_a_profile_shrinks_any_experiment(self):
        for experiment in ("digits", "digits_full"):
            (config,) = compose([f"experiment={experiment}", "profile=smoke"])
            assert config.budget.amount == 60
            assert config.protocol.reference_samples == 120

    def test_a_setting_of_a_method_that_no_file_names(self):
        (config,) = compose(["variants.kd.settings.beta1=0.5"])
        assert config.variants["kd"].settings["beta1"] == 0.5

    def test_moments_in_8_bits_are_pi_flows_alone(self):
        """Its recipe has them; the baselines' have float32."""
        (config,) = compose(["experiment=imagenet_1nfe_repa"])
        policies = [n for n, v in config.variants.items() if v.method == "piflow"]
        asking = [f"variants.{n}.training.optimizer" for n in policies]
        assert keys_that_set(config, "adamw8bit") == asking and len(asking) == 4
        (config,) = compose(["experiment=imagenet_1nfe_repa", "training.optimizer=adamw8bit"])
        assert set(keys_that_set(config, "adamw8bit")) == {"training.optimizer", *asking}
        (config,) = compose(["experiment=imagenet_1nfe_repa", "profile=smoke"])
        assert keys_that_set(config, "adamw8bit") == []

    def test_a_sweep_gives_each_experiment_a_name(self):
        configs = compose(["nfes=[1],[4]"])
        assert [c.nfes for c in configs] == [[1], [4]]
        assert [c.name for c in configs] == ["digits-nfes-1", "digits-nfes-4"]

    def test_a_sweep_over_two_keys(self):
        configs = compose(["sample_seed=0,1", "variants.kd.settings.beta1=0.5,0.6"])
        assert len({c.name for c in configs}) == 4
        found = {(c.sample_seed, c.variants["kd"].settings["beta1"]) for c in configs}
        assert found == {(0, 0.5), (0, 0.6), (1, 0.5), (1, 0.6)}

    def test_a_sweep_over_experiments_keeps_their_names(self):
        names = [c.name for c in compose(["experiment=digits,digits_full"])]
        assert names == ["digits", "digits_full"]

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            (["experiment=digits,analytic"], ["digits", *POINTS]),
            (["experiment=analytic,digits"], [*POINTS, "digits"]),
            (
                ["experiment=analytic,digits", "sample_seed=3,4"],
                [f"{n}-sample_seed-{s}" for s in (3, 4) for n in POINTS]
                + [f"digits-sample_seed-{s}" for s in (3, 4)],
            ),
            (
                ["experiment=digits,analytic", "name=mine"],
                ["mine-experiment-digits"] + [f"mine-{n}-experiment-analytic" for n in POINTS],
            ),
            (["experiment=analytic", "variants.kd.settings.beta1=0.5"], [*POINTS]),
        ],
    )
    def test_every_named_experiment_is_there(self, given, names):
        found = expand(given)
        assert [config.name for _, config in found] == names
        for settings, config in found:
            assert compose(settings) == [config]

    def test_names_of_a_sweep_stay_apart_and_valid(self):
        titles = ["'a b'", "'a/b'", f"'{'x' * 90}1'", f"'{'x' * 90}2'"]
        names = [c.name for c in compose([f"title={','.join(titles)}"])]
        assert len(set(names)) == 4
        assert all(len(n) <= 64 and "/" not in n for n in names)

    def test_settings_can_be_repeated_calls(self):
        assert [c.nfes for c in (*compose(["nfes=[2]"]), *compose(["nfes=[3]"]))] == [[2], [3]]

    @pytest.mark.parametrize(
        "given",
        [
            ["experiment=imagenet_1nfe", "profile=smoke", "name=again"],
            ["profile=smoke", "budget.amount=10,20", "runs=/tmp/a b"],
            ["experiment=digits", "variants.kd.settings.lr=1e-3,2e-3", "only=[kd,dmd2]"],
            ["title='a, b'"],
        ],
    )
    def test_every_experiment_has_settings_of_its_own(self, given):
        found = expand(given)
        assert len({config.name for _, config in found}) == len(found)
        for settings, config in found:
            assert compose(settings) == [config]


@dataclass(frozen=True)
class Inner:
    x: float = 1.0


@dataclass(frozen=True)
class Outer:
    count: int = 1
    rate: float = 0.1
    names: tuple[str, ...] = ()
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count={self.count}: must be positive")


class TestBuildDataclass:
    def test_converts(self):
        made = build_dataclass(
            Outer, {"rate": 1, "names": ["a"], "maybe": None, "inner": {"x": 2}}, "s"
        )
        assert made == Outer(rate=1.0, names=("a",), inner=Inner(2.0))
        assert isinstance(made.rate, float)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"coun": 1}, "s.coun: no such setting; did you mean 'count'?"),
            ({"count": 1.5}, "s.count=1.5: must be int"),
            ({"count": True}, "s.count=True: must be int"),
            ({"rate": "fast"}, "s.rate=fast: must be float"),
            ({"maybe": "x"}, "s.maybe=x: must be int | None"),
            ({"inner": {"y": 1}}, "s.inner.y: no such setting; valid: x"),
            ({"count": -1}, "s.count=-1: must be positive"),
        ],
    )
    def test_refuses(self, values, message):
        with pytest.raises(UserError) as error:
            build_dataclass(Outer, values, "s")
        assert str(error.value) == message


def test_show_prints_a_configuration_that_is_plain(capsys):
    import yaml

    assert main(["show", "profile=smoke"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["budget"]["amount"] == 60
    json.dumps(shown)


def test_hydra_is_told_of_other_packages_once():
    """It keeps every class that it is given and asks each of them at every composition."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    compose([])
    before = len(Plugins.instance().discover(SearchPathPlugin))
    compose([])
    assert len(Plugins.instance().discover(SearchPathPlugin)) == before
