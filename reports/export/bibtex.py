"""BibTeX of the papers whose methods a run used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """What a citation needs, of a paper on arXiv."""

    key: str
    authors: str
    title: str
    year: int


PAPERS = {
    "2510.14974": Paper(
        "chen2025piflow",
        "Chen, Hansheng and Zhang, Kai and Tan, Hao and Guibas, Leonidas and Wetzstein, Gordon "
        "and Bi, Sai",
        "{pi-Flow}: Policy-Based Few-Step Generation via Imitation Distillation",
        2025,
    ),
    "2505.13447": Paper(
        "geng2025meanflow",
        "Geng, Zhengyang and Deng, Mingyang and Bai, Xingjian and Kolter, J. Zico and He, Kaiming",
        "Mean Flows for One-step Generative Modeling",
        2025,
    ),
    "2405.14867": Paper(
        "yin2024dmd2",
        'Yin, Tianwei and Gharbi, Micha{\\"e}l and Park, Taesung and Zhang, Richard and '
        "Shechtman, Eli and Durand, Fredo and Freeman, William T.",
        "Improved Distribution Matching Distillation for Fast Image Synthesis",
        2024,
    ),
    "2101.02388": Paper(
        "luhman2021kd",
        "Luhman, Eric and Luhman, Troy",
        "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed",
        2021,
    ),
}


def bibtex(variants: list[dict[str, Any]]) -> str:
    """Entries of the papers that the variants name, each once; unknown ones by their number."""
    entries = {}
    for variant in variants:
        text = str(variant.get("paper") or "")
        for number in re.findall(r"\b(\d{4}\.\d{4,5})\b", text):
            paper = PAPERS.get(number)
            key = paper.key if paper else f"arxiv{number.replace('.', '_')}"
            fields = {
                "author": paper.authors if paper else "",
                "title": paper.title if paper else f"arXiv:{number}",
                "year": str(paper.year) if paper else f"20{number[:2]}",
                "eprint": number,
                "archivePrefix": "arXiv",
            }
            lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
            entries[key] = "@misc{" + key + ",\n" + "\n".join(lines) + "\n}\n"
    return "\n".join(entries[key] for key in sorted(entries))
