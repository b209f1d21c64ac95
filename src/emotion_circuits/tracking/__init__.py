"""Mirrors of run folders and reports in experiment trackers (MLflow, Weights & Biases).

The results folder is the truth: a mirror reads them and never changes them, and no failure of a tracker ends a study.
What a tracker did not take is sent later by ``emotion-circuits track sync``.
"""

from emotion_circuits.tracking._contract import FilePolicy, Record, Tracker, TrackerError
from emotion_circuits.tracking._mirror import Outcome, mirror_results, mirror_run, states
from emotion_circuits.tracking._registry import open_tracker, tracker, trackers

__all__ = [
    "FilePolicy",
    "Outcome",
    "Record",
    "Tracker",
    "TrackerError",
    "mirror_results",
    "mirror_run",
    "open_tracker",
    "states",
    "tracker",
    "trackers",
]
