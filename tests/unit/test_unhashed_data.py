"""Files of the package that change numbers and are in no run's key: a change of theirs has to raise versions."""

from __future__ import annotations

from pathlib import Path

import pytest

import emotion_circuits
from emotion_circuits.experiments._registry import experiments
from emotion_circuits.store import fingerprint_file

ROOT = Path(emotion_circuits.__file__).parent

ENDPOINT = {
    "sweep", "compare", "swap", "patch", "transfer-steer", "heads.screen", "heads.ablate", "heads.patch",
    "neurons.saliency", "neurons.ablate", "circuit.ov-qk", "circuit.report",
}  # fmt: skip
"""Experiments that measure the primary endpoint: its neutral tokens are chosen among these words."""
TEXTS = {
    "sweep", "steer", "controls", "real-world", "iterative", "transfer-steer", "heads.ablate", "heads.patch",
    "neurons.ablate", "circuit.ov-qk",
}  # fmt: skip
"""Experiments whose texts the evaluators judge."""

PINNED: dict[str, tuple[str, set[str]]] = {
    "scorers/words/everyday.txt": (
        "2228c687aa6e50cd22eb345a5e59411d2c8bb31be7239ee38b426c1a75b724a4", ENDPOINT),
    "scorers/words/function_words_english.txt": (
        "21a82cc3751ccf937e797b91da0d3b53adddc02f4e4726a7d6dda6943f94888b", ENDPOINT | TEXTS),
    "scorers/words/function_words_other.txt": (
        "940b73148473385b5d031472be706b28157c8ec669fbfa011612ffee572feef9", TEXTS),
    "scorers/heads/card.json": (
        "65d5ed671f47b01cd4f2a30543b061d8ee5548f5a1ca47a83ef83c7c7314ee9c", TEXTS),
    "scorers/heads/emotions.safetensors": (
        "900b45fcaf91223655983b4d4ca8f207861032b8f396a243a2ce86793c406783", TEXTS),
    "scorers/heads/politeness.safetensors": (
        "9e091cb7cae586bc52b238eac23b02e79283a3aef1d474e7294188e556261214", TEXTS),
    # In the keys of experiments with an endpoint; the evaluator `lexicon` counts its words in all texts.
    "prompts/lexicons/emotions.toml": (
        "abb512b00aa41cafbd95cc0e3da53d12a4df5b90a9f724edbedd20efd8ce4bd4", TEXTS - ENDPOINT),
}  # fmt: skip


@pytest.mark.parametrize("file", PINNED)
def test_a_file_that_no_key_holds_is_as_the_versions_know_it(file: str) -> None:
    digest, users = PINNED[file]
    assert users <= set(experiments()), "an experiment has another name now"
    assert fingerprint_file(ROOT / file) == digest, (
        f"{file} has changed, and finished runs would be taken for new ones: raise `version` of "
        f"{', '.join(sorted(users))} where their numbers change, then write the new digest here"
    )


def test_every_word_list_and_head_is_pinned() -> None:
    found = {
        p.relative_to(ROOT).as_posix() for folder in ("words", "heads") for p in (ROOT / "scorers" / folder).iterdir()
    }
    assert found <= set(PINNED)
