"""Experiments that are files of one's own, and variants that are entered by settings."""

from pathlib import Path

import pytest
import yaml

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.config.compose import compose, expand
from piflow_bench.config.schema import to_plain
from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import load_protocol

FILES = {
    "my.yaml": "defaults: [digits]\nnfes: [2]\nvariants:\n  mine: {method: kd}\n",
    "sub/child.yml": "defaults: [../my.yaml, protocol: digits]\nbudget: {amount: 7}\n",
    "points.yaml": "defaults:\n  - dataset: mixture2d\n  - override /protocol: points\n"
    "nfes: [1]\nvariants:\n  a: {method: kd}\n",
    "bare.yaml": "variants:\n  a: {method: kd}\nadd: [dmd2]\n",
    "both.yaml": "parts: [./my.yaml, digits]\n",
    "digits.yaml": "defaults: [_self_, digits]\nquestion: mine\n",
    "named.yaml": "defaults: [digits]\nname: other\n",
    "my first, try.yaml": "defaults: [digits]\n",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIFLOW_BENCH_STORE", raising=False)
    return tmp_path


def only(*settings):
    (config,) = compose(settings)
    return config


class TestFiles:
    @pytest.mark.parametrize("path", ["./my.yaml", "my.yaml", "{here}/my.yaml", "sub/../my.yaml"])
    def test_a_file_changes_what_it_builds_on(self, path, here):
        config, base = only(f"experiment={path.format(here=here)}"), only()
        assert config.name == "my" and config.nfes == [2]
        assert list(config.variants) == [*base.variants, "mine"]
        assert config.budget == base.budget and config.protocol == base.protocol

    def test_files_build_on_files_beside_them(self):
        config = only("experiment=sub/child.yml", "nfes=[4]")
        assert (config.name, config.budget.amount, config.nfes) == ("child", 7, [4])
        assert "mine" in config.variants

    def test_groups_are_chosen_without_hydras_word_for_it(self):
        config = only("experiment=points.yaml", "profile=smoke")
        assert (config.dataset["name"], config.protocol.name) == ("mixture2d", "points")
        assert list(config.variants) == ["a"] and config.budget.amount == 60

    def test_a_file_adds_methods(self):
        assert list(only("experiment=bare.yaml").variants) == ["a", "dmd2"]

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("digits.yaml", "digits"),
            ("./digits.yaml", "digits"),
            ("named.yaml", "other"),
            ("my first, try.yaml", "my-first-try"),
        ],
    )
    def test_its_name_is_the_files(self, path, name):
        assert only(f"experiment={path}").name == name
        assert only(f"experiment={path}", "name=x").name == "x"

    def test_a_file_of_a_shipped_name_is_the_file(self):
        assert only("experiment=./digits.yaml").experiment_file == "digits.yaml"
        assert only("experiment=digits").experiment_file == "digits"

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            (["experiment=digits,./my.yaml"], ["digits", "my"]),
            (["experiment=./my.yaml,sub/child.yml"], ["my", "child"]),
            (
                ["experiment=digits,./my.yaml", "name=x"],
                ["x-experiment-digits", "x-experiment-my"],
            ),
            (["experiment=both.yaml"], ["my", "digits"]),
            (["experiment=my.yaml", "sample_seed=1,2"], ["my-sample_seed-1", "my-sample_seed-2"]),
        ],
    )
    def test_lists_hold_files_and_names(self, given, names):
        found = expand(given)
        assert [config.name for _, config in found] == names
        for settings, config in found:  # What describes it alone is what the user knows it by.
            assert compose(settings) == [config]
            assert not any("own-file" in word for word in settings)

    @pytest.mark.parametrize(
        ("path", "text", "words"),
        [
            ("no.yaml", None, ["experiment=no.yaml", "no such file"]),
            ("sub/child", None, ["no such file", "did you mean sub/child.yml?"]),
            ("./sub", None, ["is a folder"]),
            ("x.yaml", "nfes: [1\n", ["experiment=x.yaml", "no YAML in line 2"]),
            ("x.yaml", "nfes: [1]\nnfes: [2]\n", ["line 2", "duplicate key nfes"]),
            ("x.yaml", "three words here\n", ["must hold settings"]),
            ("x.yaml", "3\n", ["must hold settings"]),
            ("x.yaml", b"\xff\xfe\x00a: 1", ["no text in UTF-8"]),
            ("x.yaml", "varants: {}\n", ["x.yaml: varants", "did you mean 'variants'?"]),
            ("x.yaml", "training: {bach: 3}\n", ["training.bach", "'batch'"]),
            ("x.yaml", "variants: {a: {metod: kd}}\n", ["variants.a.metod", "'method'"]),
            ("x.yaml", "variants: {a: kd}\n", ["variants.a", "{method: kd}"]),
            ("x.yaml", "variants: {a: {nfes: [1]}}\n", ["variants.a.method", "is needed"]),
            ("x.yaml", "training: {batch: abc}\n", ["x.yaml: training.batch", "abc", "Integer"]),
            ("x.yaml", "nfes: 3\n", ["x.yaml: nfes: must be a list"]),
            ("x.yaml", "defaults: digits\n", ["defaults: must be a list"]),
            ("x.yaml", "defaults: [digitz]\n", ["defaults: digitz", "did you mean 'digits'?"]),
            ("x.yaml", "defaults: [my]\n", ["defaults: my", "./my.yaml"]),
            ("x.yaml", "defaults: [./no.yaml]\n", ["./no.yaml", "no such file"]),
            ("x.yaml", "defaults: [./x.yaml]\n", ["names itself"]),
            ("x.yaml", "defaults: [dataset: digit]\n", ["dataset: digit", "'digits'"]),
            ("x.yaml", "defaults: [digits]\nnfes: [0]\n", ["nfes=0", "at least 1"]),
        ],
    )
    @pytest.mark.parametrize("verb", ["run", "show"])
    def test_mistakes_are_one_line(self, verb, path, text, words, here, capsys):
        if text is not None:
            (here / path).write_bytes(text if isinstance(text, bytes) else text.encode())
        assert main([verb, f"experiment={path}"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "own-file" not in said.err
        for word in words:
            assert word in said.err
        assert not (here / "runs").exists()

    @pytest.mark.parametrize("argument", ["./my.yaml", "my.yaml"])
    @pytest.mark.parametrize("verb", ["run", "show"])
    def test_a_path_alone_is_told_how_it_is_given(self, verb, argument, capsys):
        assert main([verb, argument]) == 2
        assert f"experiment={argument}" in capsys.readouterr().err

    @pytest.mark.slow
    def test_it_is_shown_planned_and_run(self, here, capsys):
        small = ["profile=smoke", "only=[mine,teacher-euler]", "nfes=[1]", "launcher=debug"]
        assert main(["show", "experiment=./my.yaml"]) == 0
        assert "name: my\n" in capsys.readouterr().out
        assert main(["run", "--plan", "experiment=./my.yaml", *small]) == 0
        assert "my" in capsys.readouterr().out and not (here / "runs").exists()
        made = piflow_bench.run(Path("my.yaml"), *small, "protocol.extractors=[digits]")
        assert set(made.results["experiment"]) == {"my.yaml"}
        assert "mine" in set(made.table["variant"])
        (here / "my.yaml").unlink()  # Its results stand without it.
        assert piflow_bench.open(made.folder).samples("mine", 1).shape == (60, 1, 8, 8)


RULES = "extractors: [digits]\nmetrics: [fd, recall, vendi]\nsettings: {k: 4}\nsamples: 60\n"


class TestProtocols:
    @pytest.fixture(autouse=True)
    def rules(self, here):
        (here / "rules.yaml").write_text(RULES)

    @pytest.mark.parametrize("path", ["./rules.yaml", "rules.yaml", "{here}/rules.yaml"])
    def test_a_file_is_what_evaluate_takes_it_for(self, path, here):
        config = only(f"protocol={path.format(here=here)}")
        assert config.protocol == load_protocol("rules.yaml")
        assert config.protocol.name == "rules" and config.variants == only().variants

    def test_settings_stand_above_it(self):
        found = only("protocol=rules.yaml", "protocol.settings.k=5", "profile=smoke").protocol
        assert found.settings == {"k": 5} and found.samples == 60 and found.curve_samples == 40

    def test_an_experiments_file_names_one_beside_it(self, here):
        (here / "sub" / "rules.yml").write_text(f"name: other\n{RULES}")
        for word in ("protocol", "override /protocol"):
            (here / "sub" / "x.yaml").write_text(f"defaults: [digits, {{{word}: ./rules.yml}}]\n")
            config = only("experiment=sub/x.yaml")
            assert config.protocol.name == "other" and config.protocol.settings == {"k": 4}

    def test_lists_hold_files_and_names(self):
        found = expand(["protocol=digits,./rules.yaml"])
        assert [c.name for _, c in found] == ["digits-protocol-digits", "digits-protocol-rules"]
        assert [c.protocol.name for _, c in found] == ["digits", "rules"]
        for settings, config in found:
            assert compose(settings) == [config]
            assert not any("own-file" in word for word in settings)
        assert len(compose(["experiment=analytic", "protocol=./rules.yaml"])) == 2

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (None, ["protocol=./x.yaml: no such file"]),
            ("extractor: digits\n", ["x.yaml: extractor", "did you mean 'extractors'?"]),
            ("samples: many\n", ["x.yaml: protocol.samples", "many", "Integer"]),
            ("- fd\n", ["x.yaml: must hold settings"]),
            ("a: [", ["x.yaml: no YAML"]),
            (b"\xff\xfe\x00a: 1", ["x.yaml: is no text in UTF-8"]),
            ("defaults: [digits]\n", ["x.yaml: defaults: no such setting"]),
            ("metrics: [fdd]\n", ["protocol.metrics=fdd", "did you mean 'fd'"]),
            ("metrics: [fd]\n", ["protocol.extractors=[]: at least one"]),
        ],
    )
    @pytest.mark.parametrize("verb", ["run", "status"])
    def test_mistakes_are_one_line(self, verb, text, words, here, capsys):
        if text is not None:
            (here / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        assert main([verb, "protocol=./x.yaml"]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and "own-file" not in said.err
        for word in words:
            assert word in said.err
        assert not (here / "runs").exists()

    @pytest.mark.parametrize("verb", [["show"], ["doctor"], ["run", "--plan"]])
    def test_verbs_take_it_alike(self, verb, here, capsys):
        assert main([*verb, "protocol=./rules.yaml", "profile=smoke"]) == 0
        assert ("name: rules\n" in capsys.readouterr().out) == (verb == ["show"])

    @pytest.mark.slow
    def test_a_run_is_repeated_and_reported_without_the_file(self, here, capsys):
        small = ["profile=smoke", "only=[teacher-euler]", "nfes=[1]", "launcher=debug"]
        small += ["protocol.primary_diversity=recall"]
        assert main(["run", "protocol=./rules.yaml", *small]) == 0
        folder = here / "runs" / "digits-smoke"
        made = piflow_bench.open(folder)
        assert {"fd", "recall", "vendi"} <= set(made.results["metric"])
        assert main(["status", "protocol=./rules.yaml", *small]) == 0
        assert "missing" not in capsys.readouterr().out
        (here / "rules.yaml").unlink()
        assert made.config.protocol.settings == {"k": 4}
        assert made.samples("teacher-euler", 1).shape == (60, 1, 8, 8)
        assert main(["report", str(folder)]) == 0
        (here / "again.yaml").write_text(yaml.safe_dump(to_plain(made.config.protocol)))
        assert main(["run", "protocol=again.yaml", *small]) == 0  # In the same folder.
        said = capsys.readouterr().out
        assert "0 stages computed" in said and said.endswith("runs/digits-smoke/report.html\n")


MINE = {
    "variants.mine={method: kd, settings: {lr: 3.0}}": [],
    "+variants.mine={method: kd, settings: {lr: 3.0}}": [],
    "variants.mine.method=kd": ["variants.mine.settings.lr=3.0"],
    "variants.mine.settings.lr=3.0": ["variants.mine.method=kd"],
    "variants.mine={method: kd}": ["variants.mine.settings={lr: 3.0}"],
}


class TestEntered:
    @pytest.mark.parametrize("first", MINE)
    def test_a_variant_is_written_as_settings(self, first):
        config = only(
            first, *MINE[first], "variants.mine.nfes=[1]", "variants.mine.budget.amount=9"
        )
        mine = config.variants["mine"]
        assert (mine.method, mine.settings, mine.nfes) == ("kd", {"lr": 3.0}, [1])
        assert mine.budget == {"amount": 9}
        assert list(config.variants) == [*only().variants, "mine"]

    def test_an_added_method_has_settings(self):
        config = only("variants.theirs.settings.lr=3.0", "add=[theirs]", "variants.theirs.nfes=[1]")
        entry = config.variants["theirs"]
        assert (entry.method, entry.settings, entry.nfes) == ("theirs", {"lr": 3.0}, [1])
        assert only("add=[theirs]", "only=[theirs]").only == ["theirs"]

    @pytest.mark.parametrize("only_", ["only=[kd]", "only=[kd,mine]", "experiment=few.yaml"])
    @pytest.mark.parametrize("entering", ["add=[mine]", "variants.mine.method=kd"])
    def test_what_is_entered_is_not_left_out(self, entering, only_, here):
        (here / "few.yaml").write_text("defaults: [digits]\nonly: [kd]\n")
        assert only(only_, entering).only == ["kd", "mine"]
        assert only(only_.replace(",mine", ""), "variants.kd={nfes: [1]}").only == ["kd"]

    def test_several(self):
        config = only("add=[a,b]", "variants.c.method=kd", "variants.b.settings.x=1")
        assert [config.variants[n].method for n in "abc"] == ["a", "b", "kd"]
        assert config.variants["b"].settings == {"x": 1}

    def test_swept(self):
        configs = compose(["variants.mine.method=kd,dmd2", "variants.mine.settings.lr=3.0"])
        assert [c.variants["mine"].method for c in configs] == ["kd", "dmd2"]
        assert all(c.variants["mine"].settings == {"lr": 3.0} for c in configs)

    def test_in_every_part_of_an_experiment(self):
        configs = compose(["experiment=analytic", "variants.mine.method=kd", "add=[dmd2]"])
        assert len(configs) == 2 and all({"mine", "dmd2"} <= {*c.variants} for c in configs)

    def test_of_a_known_variant_as_a_whole(self):
        before = only().variants["kd"]
        after = only("variants.kd={settings: {lr: 3.0, beta1: 0.2}}").variants["kd"]
        assert after.settings == {**before.settings, "lr": 3.0, "beta1": 0.2}
        assert after.method == before.method

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (["variants.kdd.settings.lr=1"], ["no such variant", "'kd'", "variants.kdd.method="]),
            (["variants.mine={settings: {lr: 1}}"], ["variants.mine.method", "is needed"]),
            (["variants.mine={methd: kd}"], ["variants.mine.methd", "'method'"]),
            (["variants.mine=kd"], ["variants.mine=kd", "{method: kd"]),
            (["add=[kd]"], ["add=kd", "already", "variants.NAME.method=kd"]),
            (["add=kd"], ["add=[kd]"]),
        ],
    )
    def test_mistakes(self, settings, words):
        with pytest.raises(UserError) as told:
            compose(settings)
        for word in words:
            assert word in str(told.value)

    def test_what_a_refusal_advises_is_taken(self, here, capsys):
        assert main(["new", "method", "mine"]) == 0
        source = Path("mine.py").read_text()
        assert "nfes=None" not in source
        Path("mine.py").write_text(source.replace("Facts(", "Facts(nfes=(1,), ", 1))
        capsys.readouterr()
        settings = ["plugins=mine.py", "add=[mine]", "nfes=[1,4]", "only=[mine,teacher-euler]"]
        assert main(["run", "--plan", *settings]) == 2
        advice = capsys.readouterr().err.partition("; set ")[2].strip()
        assert advice == "variants.mine.nfes=[1]"
        assert main(["run", "--plan", *settings, advice]) == 0
