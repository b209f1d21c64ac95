"""``load_lm``: a causal language model from a name, a folder, a GGUF file or objects in memory, as an :class:`LM`."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate.utils import get_max_memory
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models.bridge import from_bridge, is_wrapped, unwrap
from emotion_circuits.models.families import family_of, llama_like
from emotion_circuits.models.family import Family
from emotion_circuits.models.lm import LM
from emotion_circuits.models.memory import free_bytes, is_out_of_memory
from emotion_circuits.models.preflight import require_room

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Device = Literal["auto", "cpu", "cuda", "mps"]
SHARE_OF_WEIGHTS = 0.9
"""Of what is free where a model is spread; the rest is for keys, values and activations."""
# What the loaders raise for a config, tokenizer or weight file with wrong content: a field of the wrong type fails
# wherever it is first used, so TypeError and AttributeError are among them.
_UNLOADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, IndexError, RuntimeError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip


def load_lm(
    source: str | Path | PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    prefix_token: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
    offline: bool = False,
) -> LM:
    """Load a causal language model.

    Args:
        source: a registry alias (``smollm2-135m``), a hub id, a folder, a ``.gguf`` file, a Hugging Face model, or a
            TransformerLens ``TransformerBridge`` with raw weights (its model is unwrapped, the weights are shared). A
            model object is put into eval mode and its parameters are frozen.
        tokenizer: needed with a model object only.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` takes CUDA, then MPS, then the CPU; ignored with ``device_map``.
        device_map: passed to accelerate: ``"auto"`` spreads a model over the GPUs, then main memory, then the disk; a
            mapping says which module goes where. Weights that do not stay on a device are fetched for each pass.
        max_memory: for ``"auto"``, most bytes (or ``"10GB"``) by device: GPU numbers and ``"cpu"``; default: nine
            tenths of what is free, in main memory within the limits of container and job.
        prefix_token: the token put in front of every text. Default, in this order: the registry's; what the tokenizer
            itself puts in front of a text; the family's (``Family.prefix_tokens``); a BOS, then an EOS, that the
            tokenizer declares but does not add by itself. The family's thus precedes a declared BOS that is not added.
            Without any the first word becomes the attention sink, and ``notices`` says so.
        revision: hub revision; cache: where converted models live; offline: never ask the network.

    Raises:
        UsageError: unknown dtype, device, model or prefix token. ModelError: it cannot be fetched, read or is no
            decoder that this package can address.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", f"choose one of {', '.join(DTYPES)}")
    if isinstance(source, str | Path):
        return _from_source(
            source, dtype=dtype, device=device, device_map=device_map, max_memory=max_memory,
            prefix_token=prefix_token, revision=revision, cache=cache, offline=offline,
        )  # fmt: skip
    inner = getattr(source, "original_model", source)  # a TransformerBridge keeps its Hugging Face model there
    own_tokenizer = tokenizer if tokenizer is not None else getattr(source, "tokenizer", None)
    if not isinstance(inner, PreTrainedModel) or own_tokenizer is None:
        raise UsageError(
            f"cannot use a {type(source).__name__} as a model",
            "pass an alias, a hub id, a folder, a .gguf file, or load_lm(model, tokenizer)",
        )
    if inner is not source:
        inner = from_bridge(source, inner)
    elif is_wrapped(inner):  # a model that was given to a bridge: its submodules are wrappers now
        inner = unwrap(inner)
    name = Path(getattr(inner.config, "_name_or_path", "") or inner.config.model_type).name
    return assemble(inner.eval(), own_tokenizer, name=name, source="object in memory", prefix_token=prefix_token)


def _from_source(
    source: str | Path,
    *,
    dtype: str,
    device: str,
    device_map: str | dict[str, Any] | None,
    max_memory: dict[int | str, int | str] | None,
    prefix_token: str | None,
    revision: str | None,
    cache: Path | None,
    offline: bool,
) -> LM:
    from emotion_circuits.models.sources import resolve_source

    target = resolve_device(device)  # before anything is fetched
    found = resolve_source(source, cache=cache, offline=offline, revision=revision)
    if device_map is None:
        require_room(found.name, found.folder, dtype, free_bytes(target), str(target))
        if _straight_to(target, found.folder):
            device_map = {"": target}
        elif target.type == "cuda":
            main = torch.device("cpu")
            require_room(found.name, found.folder, dtype, free_bytes(main), "the way through main memory")
    try:
        with quiet_loader(), _paused_collector():
            model, info = cast("tuple[PreTrainedModel, dict[str, Any]]", AutoModelForCausalLM.from_pretrained(
                found.folder, dtype=DTYPES[dtype], local_files_only=True, **_placement(device_map, max_memory),
                use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            ))  # fmt: skip
            tokenizer = AutoTokenizer.from_pretrained(found.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:  # weights in a form (GPTQ, AWQ, …) that an optional package would have to unpack
        raise ModelError(
            f"{found.source} could not be loaded: {_one_line(error)}",
            "choose the model's unquantised weights, or install the package named above",
        ) from error
    except _UNLOADABLE as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{found.source} could not be loaded: {_one_line(error)}",
            "check that the folder holds a causal language model and its tokenizer",
        ) from error
    # Transformers fills parameters that the files lack with random numbers and only warns.
    if absent := [*sorted(info["missing_keys"]), *(str(key[0]) for key in info["mismatched_keys"])]:
        raise ModelError(
            f"{found.source} has no usable weights for {absent[0]} ({len(absent)} tensors in all) of "
            f"{type(model).__name__}",
            "choose a causal language model whose files are complete (an encoder has no language-model head)",
        )
    if device_map is None:
        nn.Module.to(model, target)
    return assemble(
        model.eval(), tokenizer, name=found.name, source=found.source, revision=found.revision,
        prefix_token=prefix_token if prefix_token is not None else found.prefix_token, notices=found.notices,
        address=found.address,
    )  # fmt: skip


def _straight_to(target: torch.device, folder: Path) -> bool:
    """Whether weights are read straight into a GPU's memory: main memory may be smaller than the model.

    For one device the loader sets no hooks, and computes on the CPU what no file holds, so that numbers are those of a
    model that is moved there. Quantised weights it may unpack on one device and not on the other.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return target.type == "cuda" and "quantization_config" not in config
    except (OSError, ValueError, TypeError):
        return False  # the loader says what is wrong with it


def _placement(
    device_map: str | dict[str, Any] | None, max_memory: dict[int | str, int | str] | None
) -> dict[str, Any]:
    """What accelerate is told. Weights on the disk are read from the model's own files: nothing is written."""
    if device_map is None:
        return {}
    if max_memory is None and isinstance(device_map, str):
        max_memory = _most_memory()
    return {"device_map": device_map} if max_memory is None else {"device_map": device_map, "max_memory": max_memory}


def _most_memory() -> dict[int | str, int | str]:
    """Bytes that weights may take of every device, fastest first.

    By itself accelerate takes the machine's main memory for free, of which this container or job may have a part only.
    """
    found = cast("dict[int | str, int]", get_max_memory())
    if "cpu" in found:
        found["cpu"] = min(found["cpu"], free_bytes(torch.device("cpu")))
    return {device: int(SHARE_OF_WEIGHTS * size) for device, size in found.items()}


def assemble(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    source: str,
    prefix_token: str | None = None,
    revision: str | None = None,
    notices: tuple[str, ...] = (),
    address: str = "",
) -> LM:
    """Put model, tokenizer and family together; check that the family's modules are where it says."""
    if not hasattr(model, "get_decoder") or model.get_output_embeddings() is None:
        raise ModelError(f"{name} ({type(model).__name__}) is not a causal language model", "choose a decoder model")
    model_type = model.config.model_type
    family = family_of(model_type)
    if family is None:
        family = llama_like()
        notices = (*notices, f"model type {model_type!r} is not known: treated as llama-like; run `doctor` before use")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    prefix_ids = _prefix(tokenizer, family, prefix_token)
    if not prefix_ids:
        notices = (
            *notices,
            "no token is put in front of texts (the tokenizer has no BOS or EOS): the first word becomes the attention "
            "sink and its activations are unlike those of other words; name a token with load_lm(…, prefix_token=…)",
        )
    lm = LM(model, tokenizer, family, name, source, prefix_ids, revision, notices, address)
    _check_modules(lm)
    return lm


def _check_modules(lm: LM) -> None:
    """Resolve every module path of the family once, so that a wrong family fails by name before anything runs."""
    try:
        n_layers = lm.n_layers
    except AttributeError as error:
        raise lm.unsupported(
            f"its decoder has no {lm.family.blocks!r}, the blocks of family {lm.family.name!r}"
        ) from error
    parts = ["attention_norm", "attention", "q", "k", "v", "out_projection", "mlp_norm", "mlp", "down_projection"]
    parts += [p for p in ("post_attention_norm", "post_mlp_norm") if getattr(lm.family, p)]
    for layer in range(n_layers):
        for part in parts:
            lm.module(layer, part)
    _ = lm.final_norm


def _prefix(tokenizer: PreTrainedTokenizerBase, family: Family, wanted: str | None) -> tuple[int, ...]:
    """The ids put in front of every text, in the order that :func:`load_lm` documents; none when nothing is known."""
    vocabulary = tokenizer.get_vocab()
    if wanted is not None:
        if wanted not in vocabulary:
            raise UsageError(f"prefix token {wanted!r} is not in the vocabulary", "name a token of this model")
        return (vocabulary[wanted],)
    # `add_bos_token` is not reliable; what the tokenizer does with an empty text is.
    automatic = cast("list[int]", tokenizer("").input_ids)
    if automatic and automatic[0] != tokenizer.eos_token_id:
        return (automatic[0],)
    for token in (*family.prefix_tokens, tokenizer.bos_token, tokenizer.eos_token):
        if token in vocabulary:
            return (vocabulary[token],)
    return ()


def resolve_device(device: str) -> torch.device:
    """``auto`` → CUDA, then MPS, then CPU; raises when the one asked for is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if available[d]))
    kind = device.split(":")[0]
    if kind not in available:
        raise UsageError(f"unknown device {device!r}", "choose auto, cpu, cuda or mps")
    if not available[kind]:
        raise UsageError(f"device {device!r} is not available on this machine", "use --device cpu or --device auto")
    return torch.device(device)


@contextmanager
def quiet_loader() -> Iterator[None]:
    """No progress bars and no advice of the loader between our own lines; errors still raise. Restored afterwards."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def _paused_collector() -> Iterator[None]:
    """No garbage collection: a vocabulary of 262,144 entries is read several times, and going through these objects
    again and again took half of the time of loading Gemma."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
