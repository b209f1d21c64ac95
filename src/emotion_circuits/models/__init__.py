"""Models: where they come from, how their families are laid out, and their per-head weights."""

from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.load import load_lm

__all__ = ["LM", "Encoded", "load_lm"]
