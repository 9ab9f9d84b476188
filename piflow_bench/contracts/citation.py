"""BibTeX of the paper that a method is of."""

from __future__ import annotations


def cite(key: str, authors: str, title: str, arxiv: str) -> str:
    """The entry of a paper on arXiv.

    Args:
        key: what it is cited by.
        authors: "Last, First and Last, First".
        title: with braces around what keeps its case.
        arxiv: its number, which begins with year and month.
    """
    fields = {
        "author": authors,
        "title": title,
        "year": f"20{arxiv[:2]}",
        "eprint": arxiv,
        "archivePrefix": "arXiv",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "@misc{" + key + ",\n" + "\n".join(lines) + "\n}\n"
