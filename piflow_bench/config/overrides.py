"""Variants that settings enter: methods of ``add=``, and new ones written as settings.

They are in the configuration before any other setting, which may then speak of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from piflow_bench.errors import UserError

WHOLE = re.compile(r"\+{0,2}variants\.([^.=]+)=(.*)", re.DOTALL)
METHOD = re.compile(r"\+{0,2}variants\.([^.=]+)\.method=(.*)", re.DOTALL)


def speaks_of_variants(overrides: Sequence[str]) -> bool:
    """Whether any setting could enter a variant, or be of one that is entered."""
    return any(re.match(r"\+{0,2}(variants\.|add=)", o) for o in overrides)


def entered_first(
    overrides: Sequence[str], known: Collection[str], added: Sequence[str]
) -> list[str]:
    """The settings, those before all others that enter variants.

    Args:
        overrides: ``key=value`` settings.
        known: the experiment's variants.
        added: methods that are entered under their own names.

    Raises:
        UserError: if one that is added has the name of a variant.
    """
    first, rest = [], []
    for name in added:
        if name in known:
            raise UserError(
                f"add={name}: the experiment has a variant of that name already; enter it under "
                f"another with variants.NAME.method={name}"
            )
        first.append(_entry(name, f"{{method: {name}}}"))
    known = {*known, *added}
    for override in overrides:
        if whole := WHOLE.fullmatch(override):
            if not whole[2].strip().startswith("{"):
                raise UserError(
                    f"{override}: must be such as {{method: kd, settings: {{lr: 1e-3}}}}"
                )
            # Hydra adds no entries to a typed mapping one by one, but merges a whole one.
            first.append(_entry(*whole.groups()))
        elif (method := METHOD.fullmatch(override)) and method[1] not in known:
            first.append(_entry(method[1], f"{{method: {method[2]}}}"))
        else:
            rest.append(override)
    return first + rest


def _entry(name: str, value: str) -> str:
    return f"++variants={{{name}: {value}}}"
