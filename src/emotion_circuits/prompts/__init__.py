"""Prompt sets: texts with emotion, scenario, split and the spans of their emotion words. No model code in here."""

from emotion_circuits.prompts.importing import BuiltProfile, build_profile, import_rows
from emotion_circuits.prompts.lexicon import emotion_words, emotions_with_words, find_emotion_words, list_lexicons
from emotion_circuits.prompts.loading import list_sets, load_prompts
from emotion_circuits.prompts.schema import Problem
from emotion_circuits.prompts.statistics import SetStatistics, set_statistics
from emotion_circuits.prompts.validation import validate

__all__ = [
    "BuiltProfile",
    "Problem",
    "SetStatistics",
    "build_profile",
    "emotion_words",
    "emotions_with_words",
    "find_emotion_words",
    "import_rows",
    "list_lexicons",
    "list_sets",
    "load_prompts",
    "set_statistics",
    "validate",
]
