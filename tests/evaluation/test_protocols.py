"""Protocols: named ones, files of one's own, and what their hash stands for."""

import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import load_protocol, names, titles


def test_all_have_a_title_and_metrics_of_theirs():
    assert set(titles()) == set(names()) and all(titles().values())
    for name in names():
        protocol = load_protocol(name)
        assert protocol.name == name and protocol.extractors and protocol.metrics


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extractors: [digits]\nmetrics: [fd]\nsettings: {k: 5}\n")
    protocol = load_protocol(str(file))
    assert (protocol.name, protocol.extractor, protocol.scored) == ("mine", "digits", None)
    assert protocol.measuring["k"] == 5 and protocol.measuring["comparator"] == "le"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extractors: [digits]\nmetrics: [fdd]\n", "did you mean 'fd'"),
        ("extractor: digits\n", "extractor: no such setting; did you mean 'extractors'"),
        ("samples: many\n", "samples=many: must be int"),
        ("- fd\n", "must hold settings"),
        ("a: [", "no YAML"),
        ("metrics: [fd]\n", "extractors=[]: at least one"),
        ("extractors: [digits]\n", "metrics=[]: at least one"),
    ],
)
def test_what_a_file_cannot_say_is_named(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="protocol=") as refused:
        load_protocol(str(file))
    assert words in str(refused.value)


def test_a_file_that_is_not_there_and_a_name_nobody_has(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_protocol(str(tmp_path / "other.yaml"))
    with pytest.raises(UserError, match="did you mean 'digits'"):
        load_protocol("digit")
