"""What a method's optimum is, where the page asks for imitation."""

import json

import piflow_reports
from piflow_reports.data.series import Primary
from piflow_reports.sections import facts

from tests.reports import synthetic
from tests.reports.test_page import Page

AIM = "where noised samples have the guided teacher's score"


def primary(question):
    return Primary(question, "fd", "recall", "classifier")


def test_who_aims_elsewhere_is_named_once_for_each_aim():
    variants = [
        {"name": "a", "target": AIM},
        {"name": "b", "target": AIM},
        {"name": "b-split", "target": AIM, "base": "b"},
        {"name": "c", "target": ""},
        {"name": "d", "target": "elsewhere"},
    ]
    first, second = facts.targets({"variants": variants}, primary("imitation"))
    assert f"a and b lies {AIM}." in first and "of d lies elsewhere." in second
    for question in ("data", "truth"):
        assert facts.targets({"variants": variants}, primary(question)) == []
    assert facts.targets({"variants": variants[3:4]}, primary("imitation")) == []
    assert facts.targets({}, primary("imitation")) == []


def test_the_page_says_it(tmp_path):
    folder = synthetic.write(tmp_path, students=("piflow-gm8", "dmd2"), failed=False)
    info = json.loads((folder / "run.json").read_text())
    for variant in info["variants"]:
        variant["target"] = AIM if variant["name"] == "dmd2" else ""
    (folder / "run.json").write_text(json.dumps(info))
    words = Page(piflow_reports.build(folder).read_text("utf-8")).words
    assert f"The optimum of dmd2 lies {AIM}." in words
