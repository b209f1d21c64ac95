"""The same architecture with random weights: what a network carries before it has learnt anything.

Words alone make activations of an untrained transformer differ, so a transfer between two trained models has to exceed
the transfer into such a twin.
"""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from emotion_circuits.errors import ModelError
from emotion_circuits.models.family import Family
from emotion_circuits.models.lm import LM
from emotion_circuits.models.memory import free_bytes


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
    parameters: int

    @classmethod
    def of(cls, lm: LM) -> UntrainedTwin:
        """The recipe of ``lm``'s twin: its config, tokenizer, prefix, dtype and device; no weights."""
        config = copy.deepcopy(lm.model.config)
        parameters = lm.model.num_parameters()
        return cls(config, lm.tokenizer, lm.family, lm.name, lm.prefix_ids, lm.dtype, lm.device, parameters)

    def build(self, seed: int = 0) -> LM:
        """The twin with the architecture's own initialisation; the same seed gives the same weights.

        Raises:
            ModelError: main memory does not hold it in float32, or the architecture cannot be built from its config.
        """
        self._require_room()
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

    def _require_room(self) -> None:
        """Refuse a twin that main memory does not hold while it is drawn, in float32 whatever the model's own type."""
        gc.collect()  # the model that it is the twin of was just dropped
        needed, free = 4 * self.parameters, free_bytes(torch.device("cpu"))
        if needed > free:
            raise ModelError(
                f"the untrained twin of {self.name} takes {needed / 1e9:.2f} GB of main memory while it is drawn; "
                f"{free / 1e9:.2f} GB are free",
                "run with --floors embedding, which leaves that floor out and says so, or where there is more memory",
            )
