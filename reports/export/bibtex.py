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
    "2404.04057": Paper(
        "zhou2024sid",
        "Zhou, Mingyuan and Zheng, Huangjie and Wang, Zhendong and Yin, Mingzhang and Huang, Hai",
        "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion "
        "Models for One-Step Generation",
        2024,
    ),
    "2403.12015": Paper(
        "sauer2024ladd",
        "Sauer, Axel and Boesel, Frederic and Dockhorn, Tim and Blattmann, Andreas and Esser, "
        "Patrick and Rombach, Robin",
        "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation",
        2024,
    ),
    "2412.16906": Paper(
        "dao2024scflow",
        "Dao, Quan and Phung, Hao and Dao, Trung and Metaxas, Dimitris and Tran, Anh",
        "Self-Corrected Flow Distillation for Consistent One-Step and Few-Step Text-to-Image "
        "Generation",
        2024,
    ),
    "2512.05150": Paper(
        "cheng2025twinflow",
        "Cheng, Zhenglin and Sun, Peng and Li, Jianguo and Lin, Tao",
        "{TwinFlow}: Realizing One-step Generation on Large Models with Self-adversarial Flows",
        2025,
    ),
    "2511.19428": Paper(
        "tong2025freeflow",
        "Tong, Shangyuan and Ma, Nanye and Xie, Saining and Jaakkola, Tommi",
        "Flow Map Distillation Without Data",
        2025,
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
