"""A tiny random model in a folder, a small profile of it, and its finished directions."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from emotion_circuits.cli import main
from tiny_models import byte_level_tokenizer, tiny_model
from worded_tokenizer import worded_tokenizer

PROFILE = """
title = "Small"
models = ["{model}"]

[[experiment]]
name = "directions"
prompts = "baseline"
scenarios = 20
permutations = 99
resamples = 200
"""


def save_model(folder: Path) -> Path:
    """A Llama of three layers with random weights, as a Hugging Face folder."""
    return _save(folder, byte_level_tokenizer())


def save_endless(folder: Path) -> Path:
    """The same, whose greedy texts never stop early: its stop token's logit is 0, which others always exceed."""
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama", tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.eos_token_id] = 0
    return _write(folder, model, tokenizer)


def save_worded(folder: Path) -> Path:
    """The same with a tokenizer that knows the emotions' words."""
    return _save(folder, worded_tokenizer())


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    return _write(folder, tiny_model("llama", tokenizer), tokenizer)


def _write(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers_logging.enable_progress_bar()
    return folder


def save_profile(path: Path, model: Path) -> Path:
    """A study of the first twenty baseline scenarios on a model."""
    path.write_text(PROFILE.format(model=model), encoding="utf-8")
    return path


def run_directions(results: Path, model: Path, profile: Path) -> Path:
    """``run directions`` into ``results``."""
    words = ["run", "directions", "--model", model, "--profile", profile, "--results", results, "--quiet"]
    assert main([str(w) for w in words]) == 0
    return results


@contextlib.contextmanager
def exploring(results: Path, profile: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``explore`` in a process of its own, and the address that it printed; ended on leaving."""
    words = [sys.executable, "-m", "emotion_circuits", "explore", results, "--profile", profile, "--device", "cpu"]
    process = subprocess.Popen(
        [str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address), (address, process.poll())
        yield process, address
    finally:
        process.kill()
        process.communicate()
