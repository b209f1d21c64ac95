"""Experiments, one file each, and the one runner that owns batching, resume and storage."""

from emotion_circuits.experiments._captured import load_capture
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    ExperimentParams,
    Needed,
    Outcome,
)
from emotion_circuits.experiments._profiles import Profile, list_profiles, load_profile
from emotion_circuits.experiments._registry import experiment, experiments, find_experiment
from emotion_circuits.experiments._runner import Workbench, run_experiment
from emotion_circuits.experiments._study import Failure, Study, run_study

__all__ = [
    "CaptureStep",
    "Context",
    "Experiment",
    "ExperimentParams",
    "Failure",
    "Needed",
    "Outcome",
    "Profile",
    "Study",
    "Workbench",
    "experiment",
    "experiments",
    "find_experiment",
    "list_profiles",
    "load_capture",
    "load_profile",
    "run_experiment",
    "run_study",
]
