"""What a variant's ``sampling`` may set: fields of the method's ``Sampling``, and of its ``Config``
those that ``Method.sampling`` names. Both declare the bounds.
"""

from __future__ import annotations

from dataclasses import fields

from piflow_bench.config.schema import VariantConfig
from piflow_bench.contracts.method import Method
from piflow_bench.errors import UserError, nearest
from piflow_bench.settings import build_dataclass


def sampling_choices(method: type[Method]) -> dict[str, type]:
    """The settings of sampling by name, with the dataclass that declares each."""
    return {
        **dict.fromkeys(method.sampling, method.Config),
        **{f.name: method.Sampling for f in fields(method.Sampling)},
    }


def check_sampling(entry: VariantConfig, method: Method, where: str) -> None:
    """Refuse settings that the method has not, and values that it cannot take; a list has several.

    Raises:
        UserError: naming the key below ``where``.
    """
    declared = sampling_choices(type(method))
    for key, value in entry.sampling.items():
        if key not in declared:
            raise UserError(
                f"{where}.{key}: no such sampling setting of {entry.method}; "
                + (nearest(key, list(declared)) if declared else "it has none")
            )
        values = value if isinstance(value, list | tuple) else [value]
        if not values:
            raise UserError(f"{where}.{key}=[]: name at least one value, or leave it out")
        for each in values:
            build_dataclass(declared[key], {key: each}, where)
            if values.count(each) > 1:
                raise UserError(f"{where}.{key}={values}: must be distinct")
