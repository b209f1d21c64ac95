"""How far two computations of the same values may differ by rounding alone."""

from __future__ import annotations

import torch

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest relative error inside one forward pass, by the weights' number type."""
