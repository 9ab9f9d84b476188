"""Shared by all tests: few threads, so that parallel tests do not fight for cores."""

import os

# Before anything imports Triton, whose own library is built for the interpreter or not at all.
os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

torch.set_num_threads(1)
