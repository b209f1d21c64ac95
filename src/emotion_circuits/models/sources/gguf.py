"""GGUF files: checked, then converted once to a safetensors folder with dequantised weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.models.cache import build_entry, models_folder
from emotion_circuits.models.registry import model_slug
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.store.keys import fingerprint_file

FULL_PRECISION_BYTES = 1_500_000_000
"""GGUF files up to this size become float32; larger ones bfloat16, so that a laptop's disk and memory hold them."""

_TOKENIZER_BYTES = 50_000_000
"""Room for what is saved beside the weights (the largest vocabularies take 35 MB)."""


@dataclass(frozen=True)
class GGUFContent:
    """What a file's header announces: whether any tensor is quantised, and how many weights there are."""

    quantised: bool
    weights: int


def resolve_gguf(path: Path, cache: Path | None = None) -> LocalModel:
    """Convert a ``.gguf`` file into the cache, keyed by its SHA-256, and return the folder."""
    content = check_gguf(path)
    quantised = content.quantised
    digest = fingerprint_file(path)
    name = f"{model_slug(path.stem)}-{digest[:6]}"
    item = 4 if _precise(path) else 2

    def build(target: Path, _scratch: Path) -> dict[str, Any]:
        dtype = convert_gguf(path, target)
        return {
            "schema": 1,
            "name": name,
            "source": f"gguf {path.name}",
            "revision": digest,
            "files": {path.name: digest},
            "dequantised": quantised,
            "dtype": dtype,
            "versions": converter_versions(),
        }

    record = build_entry(
        models_folder(cache) / name,
        build,
        needed_bytes=content.weights * item + _TOKENIZER_BYTES,
        purpose=f"converting {path.name}",
    )
    return LocalModel(
        models_folder(cache) / name,
        name,
        f"gguf {path.name} ({'dequantised to ' if quantised else ''}{record['dtype']})",
        revision=digest,
        dequantised=quantised,
    )


def check_gguf(path: Path) -> GGUFContent:
    """Read the header and the place of every tensor.

    Raises :class:`ModelError` for a truncated or foreign file.
    """
    from gguf import GGMLQuantizationType, GGUFReader

    size = path.stat().st_size
    fix = f"download {path.name} again, or delete it"
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it starts with {magic!r}", fix)
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is truncated or damaged: it ends after {size:,} bytes, before the data its header announces", fix
        ) from error
    expected = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    if expected == 0 or size < expected:
        raise ModelError(f"{path} is truncated: {size:,} bytes of at least {expected:,}", fix)
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    return GGUFContent(
        quantised=any(tensor.tensor_type not in plain for tensor in reader.tensors),
        weights=sum(int(tensor.n_elements) for tensor in reader.tensors),
    )


def _precise(path: Path) -> bool:
    """Whether a file becomes float32 (else bfloat16)."""
    return path.stat().st_size <= FULL_PRECISION_BYTES


def convert_gguf(path: Path, target: Path) -> str:
    """Write ``path`` as a Transformers folder (weights dequantised, tokenizer beside them); returns the dtype's name.

    Token ids, offsets and logits are those of the model that Transformers loads from the GGUF file itself.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from emotion_circuits.models.load import quiet_loader

    dtype = torch.float32 if _precise(path) else torch.bfloat16
    folder, name = str(path.parent), path.name
    try:
        # The progress bars of one conversion would land between our own lines, and one of them has no switch.
        with quiet_loader(), contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
            model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"{path.name} cannot be converted: {str(error).splitlines()[0]}",
            "use a GGUF file of a known family (llama, mistral, qwen2, qwen3, gemma3, gpt2) or the publisher's weights",
        ) from error
    # The weights are plain now; the leftover quantisation marks would make save_pretrained refuse or reload wrongly.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.__dict__["hf_quantizer"] = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return str(dtype).removeprefix("torch.")


def converter_versions() -> Mapping[str, str]:
    """Versions of what a conversion depends on, for the source record."""
    return {package: version(package) for package in ("torch", "transformers", "gguf", "safetensors")}
