"""Shared by all tests: few threads, so that parallel tests do not fight for cores."""

import torch

torch.set_num_threads(1)
