"""Directions in activation space: how they are fitted, what they tell apart, and whether two models share them."""

from emotion_circuits.representations.directions import DirectionSet, extract_directions
from emotion_circuits.representations.evidence import Evidence, gather_evidence
from emotion_circuits.representations.labelled import Labelled, labelled
from emotion_circuits.representations.sharing import sharing_test
from emotion_circuits.representations.sharing_arrays import EmotionArrays, FloorArrays, Floors
from emotion_circuits.representations.stability import direction_stability

__all__ = [
    "DirectionSet",
    "EmotionArrays",
    "Evidence",
    "FloorArrays",
    "Floors",
    "Labelled",
    "direction_stability",
    "extract_directions",
    "gather_evidence",
    "labelled",
    "sharing_test",
]
