"""All planted-truth checks of question 2: ``python -m emotion_circuits.stats.calibration --checks`` this module."""

from __future__ import annotations

from emotion_circuits.representations.calibration import geometry, maps, transfer

CHECKS = [*geometry.CHECKS, *maps.CHECKS, *transfer.CHECKS]
