"""BibTeX of the papers whose methods a run used: entries are the methods' own."""

from __future__ import annotations

import re
from typing import Any

from piflow_bench.contracts.citation import cite

ENTRY = re.compile(r"@\w+\{([^,\s]+),.*?^\}$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def bibtex(variants: list[dict[str, Any]]) -> str:
    """Each entry once, by key; papers that are named without an entry by their number."""
    entries: dict[str, str] = {}
    for variant in variants:
        own = str(variant.get("citation") or "")
        entries |= {found[1]: f"{found[0]}\n" for found in ENTRY.finditer(own)}
    known = "".join(entries.values())
    for variant in variants:
        for number in NUMBER.findall(str(variant.get("paper") or "")):
            if number not in known:
                key = f"arxiv{number.replace('.', '_')}"
                entries[key] = cite(key, "", f"arXiv:{number}", number)
    return "\n".join(entries[key] for key in sorted(entries))
