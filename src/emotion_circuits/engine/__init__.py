"""The only place that touches hooks: capture, interventions, decoding and the family contract."""

from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, Generation, generate
from emotion_circuits.engine.verify import Check, verify_family

__all__ = ["BASELINE", "Check", "Generation", "capture", "generate", "verify_family"]
