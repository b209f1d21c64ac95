"""What the engine does with a model on another device than the CPU, as JSON: ``pretended_runs.py FAMILY DTYPE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from emotion_circuits.engine import Sampling, capture, generate, kl_from_baseline, log_sum_exp_difference, score
from emotion_circuits.engine.verify import verify_family
from emotion_circuits.models import LM, load_lm
from emotion_circuits.types import SITE_KINDS, Condition, Intervention, Positions, Prompt, Site
from pretend_device import PretendedDevice, move
from tiny_models import byte_level_tokenizer, metaspace_tokenizer, tiny_model

PROMPTS = [Prompt("a", "The bus left."), Prompt("b", "Thank you so very much for this."), Prompt("c", "The dog.")]
POSITIONS = [Positions("last"), Positions("mean-content"), Positions("all")]
STEERED = "steered"


def load(family: str, dtype: str) -> LM:
    import torch

    tokenizer = metaspace_tokenizer() if family.startswith("gemma") else byte_level_tokenizer()
    return load_lm(tiny_model(family, tokenizer, seed=0).to(getattr(torch, dtype)), tokenizer)


def conditions(lm: LM) -> list[Condition]:
    """One of every operation, on whole sites, heads and neurons, at the prompt, behind it, and with a schedule."""
    v, head = np.linspace(-1, 1, lm.d_model), np.ones(lm.d_head)
    edits = {
        STEERED: Intervention(Site("resid_post", 1), "add", Positions("onward"), v, 4.0),
        "set": Intervention(Site("resid_post", 0), "set", Positions("last"), v),
        "projected": Intervention(Site("resid_post", 1), "project_out", Positions("all"), v),
        "head": Intervention(Site("z", 1, 2), "zero", Positions("onward")),
        "scheduled": Intervention(Site("z", 1, 1), "add", Positions("onward"), head, 2.0, schedule=(1.0, 0.5, 0.0)),
        "neuron": Intervention(Site("neuron", 1, 3), "scale", Positions("all"), None, 3.0),
        "by position": Intervention(Site("resid_post", 1), "set", Positions.parse("window:2"), np.stack([v, -v])),
    }
    return [Condition("baseline"), *(Condition(name, (edit,)) for name, edit in edits.items())]


def ways() -> dict[str, Callable[[LM], Any]]:
    """What is done on both devices, with results that can be compared."""
    drawn = Sampling(6, temperature=1.0, top_p=0.9, samples=2)
    metrics = [kl_from_baseline(), log_sum_exp_difference([10, 11], [12, 13])]
    direct = [kind for kind in SITE_KINDS if kind not in ("pattern", "resid_mid")]
    return {
        "greedy texts": lambda lm: generate(lm, PROMPTS, conditions(lm), Sampling(6)),
        "drawn texts": lambda lm: generate(lm, PROMPTS, conditions(lm), drawn),
        "scores": lambda lm: score(lm, PROMPTS, conditions(lm), metrics).tolist(),
        "activations": lambda lm: _lists(capture(lm, PROMPTS, direct, POSITIONS)),
        "patterns": lambda lm: _lists(capture(lm, PROMPTS, ["pattern"], POSITIONS[:1])),
        "fingerprint": lambda lm: lm.fingerprint,
    }


def _lists(activations: Any) -> dict[str, Any]:
    return {str(name): array.tolist() for name, array in activations.values.items()}


def copies(lm: LM, steps: int, temperature: float = 0.0) -> dict[str, int]:
    """Copies between host and device while one steered batch is written, of rows that do not end."""
    lm.model.generation_config.eos_token_id = None
    lm.tokenizer.eos_token = None
    steered = [c for c in conditions(lm) if c.name in ("baseline", STEERED)]
    with PretendedDevice() as device:
        texts = generate(lm, PROMPTS, steered, Sampling(steps, temperature=temperature))
    assert all(len(t.tokens) == steps for t in texts)
    return dict(device.copies)


def main(family: str, dtype: str) -> dict[str, Any]:
    """Ways whose results differ from the CPU's, clauses of the contract that fail, and copies by steps."""
    here, there = load(family, dtype), load(family, dtype)
    with PretendedDevice():
        move(there)
    differs = []
    for name, way in ways().items():
        with PretendedDevice():
            found = way(there)
        if found != way(here):
            differs.append(name)
    with PretendedDevice():
        broken = [str(check) for check in verify_family(there) if not check.ok]
    return {
        "device": str(there.device), "differs": differs, "broken": broken,
        "greedy": [copies(there, steps) for steps in (3, 6)],
        "drawn": [copies(there, steps, 1.0) for steps in (3, 6)],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
