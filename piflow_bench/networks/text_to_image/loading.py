"""Parts of pipelines as diffusers loads them, from a folder alone and without its bars."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def quietly() -> Iterator[None]:
    """Inside it diffusers and transformers show no bars and deprecate nothing."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    loggers = (of_diffusers, of_transformers)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = of_transformers.is_progress_bar_enabled()
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The new name of the argument is not one of older releases.
            warnings.filterwarnings("ignore", ".*torch_dtype.*", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
            if bars:
                logger.enable_progress_bar()


def loaded(cls: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """A pipeline, or a part of one, with weights of a precision; nothing is downloaded."""
    with quietly():
        return cls.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, **options)
