"""A made-up run folder, seeded, for looking at the page without training anything."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

HOSTILE = "<script>alert('x')</script> & %{y} a|b_c"
STUDENTS = {  # name: (method, track, quality at 1 NFE, recall at 1 NFE)
    "piflow-gm8": ("piflow", "distilled", 2.1, 0.71),
    "piflow-dx": ("piflow", "distilled", 2.3, 0.70),
    "dmd2": ("dmd2", "distilled", 2.9, 0.48),
    "meanflow": ("meanflow", "from scratch", 4.4, 0.62),
    HOSTILE: ("kd", "distilled", 5.2, 0.55),
}
METRICS = {"fd": False, "kid": False, "precision": True, "recall": True, "coverage": True}
BLOCKS = 16
RULES = json.dumps({"samples": 2000, "precision": "fp32", "settings": {"k": 3},
                    "dataset": {"digest": "57d9aed87ce10941"}})  # fmt: skip


def values(name, nfe, seed, extractor, question, fraction, random):
    """Plausible metrics of one cell."""
    if name in STUDENTS:
        _, _, fd, recall = STUDENTS[name]
    else:
        fd, recall = {
            "teacher-euler": (14.0, 0.4),
            "real-vs-real": (0.9, 0.83),
            "memoriser": (1.1, 0.8),
            "teacher-converged": (0.8, 0.84),
        }[name]
    if name in STUDENTS or name == "teacher-euler":
        fd, recall = 0.8 + (fd - 0.8) / nfe**0.8, 0.84 - (0.84 - recall) / nfe**0.7
    fd *= fraction**-0.4 * (1.3 if question == "data" else 1) * (4 if extractor == "pixels" else 1)
    fd *= 1 + 0.04 * random.standard_normal() * (seed is not None)
    recall *= 0.97 + 0.03 * fraction
    recall += 0.008 * random.standard_normal() * (seed is not None)
    return {
        "fd": fd,
        "kid": fd / 900,
        "precision": 0.9 - fd / 60 + (0.6 - recall) / 2,  # What diversity costs.
        "recall": recall,
        "coverage": recall + 0.05,
    }


def rows_of(name, role, nfe, seed, random, shift, fraction=1.0, status="ok", reason=""):
    """Result rows of one cell."""
    method, track = STUDENTS[name][:2] if name in STUDENTS else ("teacher", "none")
    common = {
        "run": "synthetic", "experiment": "synthetic", "variant": name, "method": method,
        "family": method, "track": track, "role": role, "train_seed": seed, "sample_seed": 0,
        "budget_tfe": 4e5 * fraction if role == "student" else 0.0, "budget_fraction": fraction,
        "nfe": nfe, "guidance": 1.5, "sampler": "solver=heun" if role == "teacher" else "",
        "protocol": "5f3c1e9a77d04b12", "rules": RULES,
        "artifact": f"{name}-{nfe}-{seed}-{fraction}",
        "status": status, "reason": reason, "train_tfe": 4e5 * fraction,
        "train_images": 2e5 * fraction, "train_seconds": 60.0 * fraction * min(len(name), 9),
        "train_steps": 3e3 * fraction,
        "params": 1.2e6, "flops_per_sample": 3.1e7 * (nfe or 0),
        "sample_seconds": 2e-4 * (nfe or 0), "policy_seconds": 3e-5 * (nfe or 0),
        "sample_memory": 3e8, "train_memory": 9e8,
        "train_rows": json.dumps({"student/grad": 2e5 * fraction, "teacher/forward": 4e5}),
        "git_commit": "0123abcd", "versions": json.dumps({"torch": "2.9", "numpy": "2.3"}),
        "hardware": "2 CPU cores", "start": "2026-01-01T00:00:00Z", "duration": 1.5,
    }  # fmt: skip
    if role != "student":
        common |= {"train_tfe": 0.0, "train_images": 0.0, "train_seconds": 0.0,
                   "train_rows": "{}", "train_memory": np.nan}  # fmt: skip
    rows = []
    for question in ("imitation", "data"):
        for extractor in ("classifier", "pixels"):
            found = values(name, nfe or 1, seed, extractor, question, fraction, random)
            reference = "20000 samples of the converged teacher"
            reference = reference if question == "imitation" else "360 held-out images"
            about = {"question": question, "extractor": extractor, "reference": reference}
            if status == "failed":
                rows.append({**common, **about, "metric": "fd", "value": np.nan, "n": 0,
                             "ci_low": np.nan, "ci_high": np.nan, "replicates": [],
                             "higher_is_better": False})  # fmt: skip
                continue
            for metric, higher in METRICS.items():
                value = found[metric]
                spread = abs(value) * (0.012 if metric == "fd" else 0.006)
                # Most of the blocks' effect is shared: samples have their noise in common.
                own = 0.5 * random.standard_normal(BLOCKS)
                replicates = value + spread / np.sqrt(BLOCKS) * (shift + own)
                half = 2.13 * np.sqrt((BLOCKS - 1) * np.var(replicates))
                rows.append({**common, **about, "metric": metric, "value": value, "n": 2000,
                             "ci_low": value - half, "ci_high": value + half,
                             "replicates": replicates.tolist(),
                             "higher_is_better": higher})  # fmt: skip
    return rows


def results(seeds=1, students=tuple(STUDENTS), nfes=(1, 4), failed=True):
    """The results table."""
    random = np.random.default_rng(0)
    shift = random.standard_normal(BLOCKS)
    rows = []
    for name in students:
        for nfe in nfes:
            for seed in range(seeds):
                broken = failed and name == HOSTILE and nfe == nfes[-1]
                if broken:
                    rows += rows_of(name, "student", nfe, seed, random, shift, status="failed",
                                    reason="loss is not finite at step 812 <b>")  # fmt: skip
                    continue
                for fraction in (0.1, 0.32, 1.0):
                    rows += rows_of(name, "student", nfe, seed, random, shift, fraction)
    for nfe in nfes:
        rows += rows_of("teacher-euler", "teacher", nfe, None, random, shift)
    for name in ("real-vs-real", "memoriser", "teacher-converged"):
        nfe = 128 if name == "teacher-converged" else None
        rows += rows_of(name, "control", nfe, None, random, shift)
    table = pd.DataFrame(rows)
    for column in ("train_seed", "nfe"):
        table[column] = table[column].astype("Int64")
    return table


def curves(students=tuple(STUDENTS), seeds=1):
    """Training logs."""
    random = np.random.default_rng(1)
    rows = []
    for number, name in enumerate(students):
        for seed in range(seeds):
            for step in range(0, 6000, 20):
                loss = (number + 1) * (0.05 + np.exp(-step / 900)) * random.lognormal(0, 0.15)
                rows.append({"variant": name, "train_seed": seed, "train_nfe": None, "step": step,
                             "tfe": step * 66.0, "images": step * 64, "seconds": step * 0.04,
                             "loss": loss, "grad_norm": 1.0, "lr": 1e-4})  # fmt: skip
    return pd.DataFrame(rows)


def digit_images(count=16):
    """Real 8x8 digits, as uint8 ``(count, 8, 8, 1)``, with their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:count, ..., None] * 15.9).astype(np.uint8), data.target[:count]


def grids(students=tuple(STUDENTS), nfes=(1, 4), points=False):
    """The arrays of grids.npz."""
    random = np.random.default_rng(2)
    images, labels = digit_images()
    arrays, rows = {}, []

    def add(variant, nfe, seed, role, noise):
        key = f"row{len(rows)}"
        rows.append({"key": key, "variant": variant, "nfe": nfe, "train_seed": seed, "role": role})
        if points:
            centre = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
            sample = centre[random.integers(0, 9, 2000)]
            arrays[key] = sample + (0.06 + noise / 500) * random.standard_normal((2000, 2))
        else:
            noisy = images + noise * random.standard_normal(images.shape)
            arrays[key] = noisy.clip(0, 255).astype(np.uint8)

    add("teacher-converged", None, None, "control", 0)
    for nfe in nfes:
        add("teacher-euler", nfe, None, "teacher", 60 / nfe)
        for number, name in enumerate(students):
            add(name, nfe, 0, "student", 12 * (number + 1) / nfe)
    return {**arrays, "labels": labels, "index": np.arange(16), "rows": np.array(json.dumps(rows))}


def breakdown(students=tuple(STUDENTS), nfes=(1, 4)):
    """Values by sample count and by class."""
    random = np.random.default_rng(3)
    rows = []
    for name in (*students, "teacher-euler"):
        role = "student" if name in STUDENTS else "teacher"
        about = {"variant": name, "train_seed": 0, "role": role, "guidance": 1.5,
                 "sampler": "" if role == "student" else "solver=heun"}  # fmt: skip
        for nfe in nfes:
            fd = values(name, nfe, None, "classifier", "imitation", 1, random)["fd"]
            sizes = [(str(n), "fd", fd + 900 / n, n) for n in (500, 1000, 1500, 2000)]
            sizes.append(("infinity", "fd_infinity", fd, 2000))
            classes = [
                (str(c), m, v * (1 + 0.1 * c), 200)
                for c in range(10)
                for m, v in (("fd", fd), ("recall", 0.4))
            ]
            for kind, found in (("size", sizes), ("class", classes)):
                for group, metric, value, n in found:
                    rows.append({**about, "nfe": nfe, "kind": kind, "group": group,
                                 "metric": metric, "value": value, "n": n})  # fmt: skip
    rows += within(students, nfes)
    return pd.DataFrame(rows)


def within(students, nfes, seeds=2):
    """Diversity within classes: that of a student is its recall's share of the teacher's."""
    random = np.random.default_rng(4)
    rows = []
    cells = [("teacher-converged", "control", None, None)]
    cells += [("teacher-euler", "teacher", nfe, None) for nfe in nfes]
    cells += [(name, "student", nfe, s) for name in students for nfe in nfes for s in range(seeds)]
    for name, role, nfe, seed in cells:
        recall = values(name, nfe or 1, seed, "classifier", "imitation", 1, random)["recall"]
        for c in range(10):
            value = 0.1 * (1 + 0.1 * c) * recall / 0.84
            left = value * (1 + 0.002 * random.standard_normal(BLOCKS))
            rows.append({"variant": name, "role": role, "nfe": nfe, "train_seed": seed,
                         "guidance": 1.5, "sampler": "solver=heun" if role == "teacher" else "",
                         "kind": "within", "group": str(c), "metric": "pairwise_distance",
                         "value": value, "n": 200, "replicates": left.tolist()})  # fmt: skip
    return rows


def selections(students=tuple(STUDENTS), nfes=(1, 4)):
    """The arrays of selections.npz."""
    images, labels = digit_images(10)
    arrays, cells = {}, []
    rules = {"best": "nearest to one of 9 samples", "worst": "farthest from the nearest of 9",
             "teacher": "largest difference from the teacher's sample",
             "training": "nearest to one of 9 training images"}  # fmt: skip
    for name in students:
        for nfe in nfes:
            key = str(len(cells))
            rows = []
            for rule, text in rules.items():
                arrays[f"{key}/{rule}"] = images
                rows.append({"rule": rule, "text": text, "index": list(range(10)),
                             "score": [i / 7 for i in range(10)],
                             "label": labels.tolist()})  # fmt: skip
            arrays[f"{key}/teacher-beside"] = arrays[f"{key}/training-beside"] = images
            cells.append({"key": key, "variant": name, "nfe": nfe, "train_seed": 0,
                          "role": "student", "sampler": "", "guidance": 1.5, "rows": rows,
                          "looked_at": 2000, "near_training": 0.04, "held_out": 360})  # fmt: skip
    return {**arrays, "cells": np.array(json.dumps(cells))}


def info(students=tuple(STUDENTS)):
    """The content of run.json."""
    return {
        "name": "synthetic", "experiment": "digits", "title": "Few-step generators on digits",
        "question_text": "Which few-step generator gives the best quality and diversity at 1 and 4 "
        "network evaluations, for the same teacher and budget?",
        "command": "python -m piflow_bench run experiment=digits",
        "config": "experiment: digits\nnfes: [1, 4]\nvariants:\n  piflow-gm8: {method: piflow}\n",
        "primary": {"question": "imitation", "quality": "fd", "diversity": "recall",
                    "extractor": "classifier"},
        "family": {"leader": "piflow-gm8"}, "dataset": "digits",
        "variants": [
            {"name": name, "method": STUDENTS[name][0], "family": STUDENTS[name][0],
             "track": STUDENTS[name][1], "label": name, "paper": "arXiv:2510.14974",
             "settings": {"substeps": 32, "lr": 1e-4},
             "tuning": {"trials": 4, "seeds": [100], "split": "held-out teacher samples"}}
            for name in students
        ],
        "failures": [{"stage": "distill", "variant": HOSTILE,
                      "reason": "loss is not finite at step 812 <b>",
                      "log": ["Traceback <i>", "slurmstepd: the last word"]}],
        "warnings": ["dmd2: the source changed under the same version 1"],
        "references": [{"method": "pi-Flow (GM-DiT)", "nfe": 1, "metric": "FID", "value": 2.85,
                        "source": "arXiv:2510.14974, table 2", "note": "ImageNet 256, 50k"}],
        "provenance": {"git_commit": "0123abcd", "versions": {"torch": "2.9", "numpy": "2.3"},
                       "hardware": "2 CPU cores", "threads": 2,
                       "started": "2026-01-01T00:00:00Z", "seconds": 512.4},
    }  # fmt: skip


def write(folder: Path, seeds=1, students=tuple(STUDENTS), nfes=(1, 4), points=False, failed=True):
    """A whole run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    results(seeds, students, nfes, failed).to_parquet(folder / "results.parquet", index=False)
    curves(students, seeds).to_parquet(folder / "curves.parquet", index=False)
    np.savez_compressed(folder / "grids.npz", **grids(students, nfes, points))
    if not points:
        breakdown(students, nfes).to_parquet(folder / "breakdown.parquet", index=False)
        np.savez_compressed(folder / "selections.npz", **selections(students, nfes))
    (folder / "run.json").write_text(json.dumps(info(students)))
    return folder
