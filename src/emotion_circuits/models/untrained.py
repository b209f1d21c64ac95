"""The same architecture with random weights: what a network carries before it has learnt anything.

Words alone make activations of an untrained transformer differ, so a transfer between two trained models has to exceed
the transfer into such a twin.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from emotion_circuits.models.family import Family
from emotion_circuits.models.lm import LM


@dataclass(frozen=True)
class UntrainedTwin:
    """All that is needed to build a model's untrained twin, so that the model itself need not stay in memory."""

    config: Any
    tokenizer: PreTrainedTokenizerBase
    family: Family
    name: str
    prefix_ids: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, lm: LM) -> UntrainedTwin:
        """The recipe of ``lm``'s twin: its config, tokenizer, prefix, dtype and device; no weights."""
        config = copy.deepcopy(lm.model.config)
        return cls(config, lm.tokenizer, lm.family, lm.name, lm.prefix_ids, lm.dtype, lm.device)

    def build(self, seed: int = 0) -> LM:
        """The twin with the architecture's own initialisation; the same seed gives the same weights."""
        from emotion_circuits.errors import ModelError

        # The twin is drawn on the CPU, where a seed means the same numbers on every machine.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                made = AutoModelForCausalLM.from_config(copy.deepcopy(self.config), dtype=torch.float32)
            except ValueError as error:
                raise ModelError(
                    f"no untrained twin of {self.name} can be built: {str(error).splitlines()[0]}",
                    "run with --floors embedding, which leaves that floor out and says so",
                ) from error
        model = cast(PreTrainedModel, made).eval()
        torch.nn.Module.to(model, device=self.device, dtype=self.dtype)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        name = f"{self.name}-untrained-{seed}"
        return LM(model, self.tokenizer, self.family, name, f"random weights (seed {seed})", self.prefix_ids)
