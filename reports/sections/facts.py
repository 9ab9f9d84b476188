"""What surrounds the numbers: the header strip, alerts, glossary, variants and provenance."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.format import names as words

from piflow_bench.pipeline.results.schema import Status

MOSTLY = 0.5
"""Share of a Fréchet distance from which on its bias is warned of."""


def header(run: Run, summary: pd.DataFrame, primary: frames.Primary) -> list[dict[str, str]]:
    """The header strip."""
    results = run.results
    cells = frames.with_series(results).drop_duplicates(
        ["series", "train_seed", "sample_seed", "nfe", "budget_fraction", "status"]
    )
    cells = cells[cells["role"] != "control"]
    done = int((cells["status"] == Status.OK).sum())
    failed = len(cells) - done
    students = results[results["role"] == "student"]
    seeds = sorted(int(s) for s in students["train_seed"].dropna().unique())
    counts = sorted({int(n) for n in summary["n"].dropna() if n > 0})
    sampled = sorted(int(s) for s in results["sample_seed"].dropna().unique())
    hashes = sorted(set(results["protocol"]) - {""})
    own = results[(results["question"] == primary.question) & (results["reference"] != "")]
    budget = students.loc[students["budget_tfe"] > 0, "budget_tfe"]
    extractors = sorted(set(results["extractor"]) - {""}, key=lambda e: (e != primary.extractor, e))
    found = [
        ("Experiment", str(run.info.get("experiment") or run.name), ""),
        ("Dataset", str(run.info.get("dataset") or words.MISSING), ""),
        ("Samples per cell", " / ".join(f"{n:,}" for n in counts) or words.MISSING, ""),
        ("Primary reference", _most(own["reference"]), ""),
        ("Train seeds", _listed(seeds), ""),
        ("Sample seeds", _listed(sampled), ""),
        ("Budget", f"{words.compact(budget.max())} TFE" if len(budget) else words.MISSING, ""),
        ("Features", ", ".join(extractors) or words.MISSING, ""),
        ("Protocol", ", ".join(h[:12] for h in hashes) or words.MISSING, ", ".join(hashes)),
        ("Cells", f"{done} done" + (f", {failed} failed" if failed else ""),
         "failed" if failed else ""),
    ]  # fmt: skip
    return [{"label": a, "value": b, "title": c} for a, b, c in found]


def question(info: dict[str, Any], nfes: list[int]) -> str:
    """What the run asks, in a line: in its experiment's words, else in the project's."""
    asked = str(info.get("question_text") or "")
    at = f"{words.joined([str(n) for n in nfes])} " if nfes else "few "
    return asked or (
        f"Which few-step generator is best at {at}network evaluations, for this teacher and budget?"
    )


def in_short(run: Run, summary: pd.DataFrame, primary: frames.Primary) -> list[str]:
    """What belongs beside the question: on what, how many samples and seeds, for how much."""
    students = summary[summary["role"] == "student"]
    own = frames.select(students, primary.question, primary.quality, primary.extractor)
    counts = sorted({int(n) for n in own["n"].dropna() if n > 0})
    seeds = sorted({int(n) for n in own["seeds"] if n > 0})
    budget = own.loc[own["budget_tfe"] > 0, "budget_tfe"]
    return [
        *([str(run.info["dataset"])] if run.info.get("dataset") else []),
        *([f"n = {' / '.join(f'{n:,}' for n in counts)}"] if counts else []),
        *([" or ".join(words.count(n, "train seed") for n in seeds)] if seeds else []),
        *([f"{words.compact(budget.max())} TFE a training"] if len(budget) else []),
    ]


def _listed(items: list[int]) -> str:
    if not items:
        return words.MISSING
    return ", ".join(map(str, items)) if len(items) <= 6 else f"{items[0]} to {items[-1]}"


def _most(column: pd.Series) -> str:
    return str(column.mode().iloc[0]) if len(column) else words.MISSING


def alerts(run: Run, summary: pd.DataFrame) -> list[dict[str, str]]:
    """What went wrong, or weakens the numbers: first what failed, then warnings."""
    found: list[tuple[str, ...]] = []
    told = set()
    for failure in run.info.get("failures") or []:
        names = [str(failure.get(key) or "") for key in ("variant", "stage")]
        reason = str(failure.get("reason") or "no reason recorded")
        told.add((str(failure.get("variant") or ""), reason))
        log = "\n".join(map(str, failure.get("log") or []))
        found.append(("failed", " · ".join(n for n in names if n), reason, log))
    failed = frames.with_series(run.results)
    failed = failed[failed["status"] != Status.OK]
    for key, rows in failed.groupby(["variant", "series", "reason"], sort=True):
        variant, series, reason = map(str, key)  # type: ignore[arg-type]
        texts = [text for name, text in told if name in ("", variant)]
        if any(reason and (reason in text or text in reason) for text in texts):
            continue
        at = sorted(int(n) for n in rows["nfe"].dropna().unique())
        where = f" · {', '.join(map(str, at))} NFE" if at else ""
        found.append(("failed", f"{series}{where}", reason or "no reason recorded"))
    live = run.info.get("live")
    if live:
        text = f"{live['done']} of {live['total']} stages are finished; this page refreshes itself"
        found.append(("warning", "The run goes on", text))
    ended = set(summary["variant"])
    for name in sorted(set(run.results["variant"]) - ended):
        found.append(("warning", name, "no checkpoint at the full budget: it is not ranked"))
    noted = [*(run.info.get("warnings") or []), *(run.info.get("notes") or [])]
    found += [("warning", "", str(text)) for text in noted]
    found += [("warning", "Few samples", text) for text in _few_samples(run.breakdown)]
    found += [("warning", "Protocols differ", t) for t in frames.protocol_clashes(run.results)]
    if any("+" in commit for commit in run.results["git_commit"].unique()):
        found.append(("warning", "", "the code had uncommitted changes"))
    return [
        dict(zip(("kind", "where", "text", "log"), (*row, "")[:4], strict=True)) for row in found
    ]


def _few_samples(breakdown: pd.DataFrame) -> list[str]:
    """Whether the students' Fréchet distances are mostly bias of their sample count, in words."""
    if "kind" not in breakdown:
        return []
    rows = breakdown[(breakdown["kind"] == "size") & (breakdown["role"] == "student")]
    end = rows[rows["metric"] == "fd_infinity"]
    keys = ["variant", "nfe", "sampler"]
    whole = rows[rows["metric"] == "fd"].sort_values("n").groupby(keys).last()["value"]
    both = pd.concat([whole, end.groupby(keys).last()["value"].rename("end")], axis=1).dropna()
    share = 1 - both["end"] / both["value"]
    if not len(share) or share.median() < MOSTLY:
        return []
    n = int(end["n"].max())
    return [
        f"at n = {n:,} the Fréchet distance of the median student loses "
        f"{min(share.median(), 1):.0%} of its value when it is extrapolated to infinitely many "
        "samples: values are mostly bias, and differences too are those of this n"
    ]


def glossary(summary: pd.DataFrame) -> list[dict[str, str]]:
    """The metrics of the page with their meanings."""
    names = set(frames.measured(summary)["metric"])
    return [
        {"label": words.metric(name).label, "meaning": words.metric(name).meaning, "name": name}
        for name in [*words.LABELS, *sorted(names - set(words.LABELS))]
        if name in names and words.metric(name).meaning
    ]


def variant_facts(info: dict[str, Any]) -> list[dict[str, str]]:
    """How each variant was set and tuned."""
    found = []
    for variant in info.get("variants") or []:
        blocks = {key: variant.get(key) for key in ("settings", "training") if variant.get(key)}
        tuning = variant.get("tuning")
        found.append(
            {
                **{
                    key: str(variant.get(key) or "")
                    for key in ("name", "method", "family", "track", "paper", "fidelity", "target")
                },
                "tuning": _plain(tuning) or "not stated",
                "settings": json.dumps(blocks, indent=1, ensure_ascii=False, default=str)
                if blocks
                else "",
            }
        )
    return found


def targets(info: dict[str, Any], primary: frames.Primary) -> list[str]:
    """Who aims at another distribution than imitation asks for, in words; one line an aim."""
    if primary.question != "imitation":
        return []
    aims: dict[str, list[str]] = {}
    for variant in info.get("variants") or []:
        if variant.get("target") and not variant.get("base"):
            aims.setdefault(str(variant["target"]), []).append(str(variant.get("name")))
    return [
        f"Imitation asks for the end of the guided teacher's ODE. The optimum of "
        f"{words.joined(names)} lies {target}."
        for target, names in aims.items()
    ]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else str(value)


def protocols(results: pd.DataFrame) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every protocol's hash and the rules behind it, where the rows hold them."""
    pairs = results[["protocol", "rules"]].drop_duplicates("protocol")
    found = []
    for name, text in sorted(pairs.itertuples(index=False)):
        rules = json.loads(text)
        rows = [(str(key).replace("_", " "), _plain(value)) for key, value in sorted(rules.items())]
        if name and rows:
            found.append((str(name), rows))
    return found


def provenance(run: Run) -> list[tuple[str, str]]:
    """Where, when and with what the run was made."""
    recorded = dict(run.info.get("provenance") or {})
    results = run.results
    for key in ("git_commit", "hardware", "node"):
        recorded.setdefault(key, ", ".join(sorted(set(results[key]) - {""})))
    versions = recorded.pop("versions", None)
    if versions is None:
        versions = _versions([json.loads(t) for t in set(results["versions"])])
    return listed({**recorded, "versions": versions})


def _versions(found: list[dict[str, str]]) -> dict[str, str]:
    """Versions of every package, all of them where artifacts were made with several."""
    names = sorted({name for versions in found for name in versions})
    return {n: ", ".join(sorted({v[n] for v in found if n in v})) for n in names}


def listed(recorded: dict[str, Any]) -> list[tuple[str, str]]:
    """Recorded facts in words; the time taken as a duration, what is empty left out."""
    facts = dict(recorded)
    if facts.get("seconds") is not None:
        facts["duration"] = words.duration(float(facts.pop("seconds")))
    facts["versions"] = facts.pop("versions", None)  # Long, so last.
    rows = [(str(k).replace("_", " ").capitalize(), _plain(v)) for k, v in facts.items()]
    return [row for row in rows if row[1]]
