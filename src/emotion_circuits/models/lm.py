"""``LM``: an unmodified Hugging Face model, its tokenizer, and where its family keeps things."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emotion_circuits.errors import ContractError, ModelError, UsageError
from emotion_circuits.models.family import Family, Projection
from emotion_circuits.types import Prompt, SiteKind


@dataclass(frozen=True)
class Encoded:
    """A tokenised prompt: ``ids`` start with the prefix; ``offsets`` are character spans, ``(0, 0)`` for the prefix."""

    prompt: Prompt
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    n_prefix: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> list[int]:
        """Absolute indices of the text's own tokens: no prefix, no zero-width token (unless there is no other)."""
        own = range(self.n_prefix, len(self.ids))
        visible = [i for i in own if self.offsets[i][1] > self.offsets[i][0]]
        return visible or list(own)


@dataclass(eq=False)
class LM:
    """A causal language model as every other module sees it.

    ``model`` is used as it is: nothing is wrapped, folded or copied. Paths come from ``family``; sizes from the config.
    ``address`` is what to type to load it again; empty for an object in memory, which has none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    name: str
    source: str
    prefix_ids: tuple[int, ...] = ()
    revision: str | None = None
    notices: tuple[str, ...] = field(default=())
    address: str = ""

    # ---- sizes -------------------------------------------------------------------------------------------------
    @cached_property
    def config(self) -> Any:
        """The text model's config (the inner one of a multimodal wrapper)."""
        return self.model.config.get_text_config()

    @cached_property
    def decoder(self) -> nn.Module:
        """The stack of blocks without the LM head."""
        return cast(nn.Module, self.model.get_decoder())

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The transformer blocks in order."""
        return tuple(cast(nn.ModuleList, self.decoder.get_submodule(self.family.blocks)))

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        return int(self.config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        return int(getattr(self.config, "num_key_value_heads", None) or self.n_heads)

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def d_head(self) -> int:
        # From the config where it says so: Qwen 3 and Gemma 3 have heads wider than d_model / n_heads.
        return int(getattr(self.config, "head_dim", None) or self.d_model // self.n_heads)

    @cached_property
    def d_mlp(self) -> int:
        weight = cast(torch.Tensor, self.module(0, "down_projection").weight)
        rows, columns = weight.shape
        return int(columns if isinstance(self.module(0, "down_projection"), nn.Linear) else rows)

    @property
    def max_length(self) -> int:
        """The longest text in tokens, prefix included, that positions exist for."""
        return int(getattr(self.config, "max_position_embeddings", None) or 1_000_000)

    @property
    def vocabulary_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def parallel(self) -> bool:
        """True where attention and MLP read the same residual stream, so that ``resid_mid`` does not exist."""
        return self.family.parallel(self.config)

    @property
    def device(self) -> torch.device:
        """Where token ids go: where the embedding runs, also when accelerate keeps its weights elsewhere."""
        embedding = self.model.get_input_embeddings()
        own = cast(torch.Tensor, embedding.weight).device
        if own.type != "meta":
            return own
        placed = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
        return torch.device("cpu" if placed is None else placed)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def dtype_name(self) -> str:
        """The number type as ``load_lm`` takes it: ``float32``, ``bfloat16`` …"""
        return str(self.dtype).removeprefix("torch.")

    def width(self, kind: SiteKind) -> tuple[int, ...]:
        """Shape of one token's activation at a site: ``(d,)`` or ``(head, d_head)``; patterns have no fixed width."""
        if kind in ("q", "z"):
            return (self.n_heads, self.d_head)
        if kind in ("k", "v"):
            return (self.n_kv_heads, self.d_head)
        if kind == "result":
            return (self.n_heads, self.d_model)
        if kind == "neuron":
            return (self.d_mlp,)
        if kind == "pattern":
            raise UsageError("an attention pattern is as wide as its text: capture it with its own function")
        return (self.d_model,)

    # ---- modules -----------------------------------------------------------------------------------------------
    def module(self, layer: int, part: str) -> nn.Module:
        """The module that the family calls ``part`` in block ``layer``: a :class:`Family` field, block, q, k or v."""
        block = self.blocks[layer]
        if part == "block":
            return block
        if part in ("q", "k", "v"):
            path = f"{self.family.attention}.{self.family.qkv.module[cast(Projection, part)]}"
        else:
            path = getattr(self.family, part)
        if part == "out_projection":
            path = f"{self.family.attention}.{path}"
        elif part == "down_projection":
            path = f"{self.family.mlp}.{path}"
        try:
            return block.get_submodule(path)
        except AttributeError:
            raise self.unsupported(
                f"block {layer} has no {path!r}, where family {self.family.name!r} has its {part}"
            ) from None

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the LM head."""
        try:
            return self.decoder.get_submodule(self.family.final_norm)
        except AttributeError:
            raise self.unsupported(f"there is no {self.family.final_norm!r}, its family's final norm") from None

    def unsupported(self, reason: str) -> ContractError:
        """The error that names this model and its type as not supported; raise it."""
        return ContractError(
            f"{self.name} (model type {self.model.config.model_type!r}) is not supported: {reason}",
            "add a family file for it (see docs), or choose a model of a supported family",
        )

    def layers(self, wanted: Sequence[int] | None = None) -> tuple[int, ...]:
        """Checked layer numbers (default: all); negative numbers count from the end."""
        if wanted is None:
            return tuple(range(self.n_layers))
        for layer in wanted:
            if not -self.n_layers <= layer < self.n_layers:
                raise UsageError(
                    f"layer {layer} does not exist in {self.name}, which has {self.n_layers} layers",
                    f"choose layers from 0 to {self.n_layers - 1}",
                )
        return tuple(layer % self.n_layers for layer in wanted)

    # ---- text --------------------------------------------------------------------------------------------------
    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Tokenise in one pass, prefix in front; raises for empty and for too long texts."""
        if not prompts:
            return []
        batch = self.tokenizer(
            [p.text for p in prompts], add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast
        )
        # A slow tokenizer has no offsets; positions that need characters say so when they are asked for.
        offsets = batch["offset_mapping"] if self.tokenizer.is_fast else [[(0, 0)] * len(i) for i in batch["input_ids"]]
        n = len(self.prefix_ids)
        encoded = [
            Encoded(p, (*self.prefix_ids, *ids), (*([(0, 0)] * n), *map(tuple, spans)), n)
            for p, ids, spans in zip(prompts, batch["input_ids"], offsets, strict=True)
        ]
        for e in encoded:
            if len(e) == n:
                raise UsageError(f"prompt {e.prompt.id!r} is empty", "remove it or give it a text")
            if len(e) > self.max_length:
                raise UsageError(
                    f"prompt {e.prompt.id!r} has {len(e)} tokens (it begins with {e.prompt.text[:40]!r}); {self.name} "
                    f"has positions for {self.max_length}",
                    "shorten it or leave it out",
                )
        return encoded

    # ---- attention implementation ------------------------------------------------------------------------------
    @contextmanager
    def eager_attention(self) -> Iterator[None]:
        """Eager attention inside the context (patterns exist only there), the previous implementation afterwards."""
        previous = self.config._attn_implementation
        if previous == "eager":
            yield
            return
        # The decoder's own config only: a vision tower beside it may run another implementation and keeps it.
        decoder = cast(PreTrainedModel, self.decoder)
        decoder.set_attn_implementation("eager")
        try:
            yield
        finally:
            decoder.set_attn_implementation(previous)

    # ---- identity ----------------------------------------------------------------------------------------------
    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when any weight, the config, the prefix or the dtype changes.

        Weights enter through weighted integer sums over their bits, which need no copy to the CPU, do not depend on
        the order of addition, and take well under a second for a small model. Weights that accelerate keeps on the
        CPU or on disk are read from there, so that the fingerprint does not depend on where they lie. Raises
        :class:`ModelError` for weights that are nowhere.
        """
        digest = hashlib.sha256()
        digest.update(_stable_config(self.model))
        digest.update(repr((self.prefix_ids, str(self.dtype))).encode())
        weights = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}  # tied ones once
        for name, tensor in sorted(weights.items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(_bit_sums(_offloaded(self.model, name) if tensor.is_meta else tensor))
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """16 hex digits of the vocabulary and, for a fast tokenizer, its whole pipeline."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        state = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(str(state).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return (
            f"LM({self.name}: {self.family.name}, {self.n_layers} layers × {self.n_heads} heads, "
            f"d_model {self.d_model}, {self.dtype}, {self.device})"
        )


def _stable_config(model: PreTrainedModel) -> bytes:
    """The config without what does not change the function computed (paths, library version)."""
    config = model.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "_attn_implementation", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    return repr(sorted((k, repr(v)) for k, v in config.items())).encode()


def _offloaded(model: PreTrainedModel, name: str) -> torch.Tensor:
    """The values of a weight that accelerate has taken out of the model (it fetches them before each forward)."""
    module, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(module), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is not None and leaf in weights:
            return cast(torch.Tensor, weights[leaf])
    raise ModelError(
        f"the weight {name} is not in memory, and accelerate does not know where it is",
        "load the model with load_lm(name or folder)",
    )


_COLUMNS = 8192
_ROWS = 256


def _bit_sums(tensor: torch.Tensor) -> bytes:
    """64-bit integer sums of a tensor's bits, one for each position modulo 8192: exact in any order of addition.

    The r-th run of 8192 integers is multiplied by 2r + 1, so that runs that change places change the sums; an odd
    factor loses no bit.
    """
    own = tensor.detach().contiguous().view(-1)
    # Integer sums are young on Apple's GPUs, whose memory is the CPU's anyway.
    raw = (own.cpu() if own.device.type == "mps" else own).view(torch.uint8)
    whole = raw.numel() // (8 * _COLUMNS) * (8 * _COLUMNS)
    rows = raw[:whole].view(torch.int64).view(-1, _COLUMNS)
    sums = torch.zeros(_COLUMNS, dtype=torch.int64, device=raw.device)
    for start in range(0, len(rows), _ROWS):  # in pieces: the products are new memory
        piece = rows[start : start + _ROWS]
        factors = 2 * torch.arange(start, start + len(piece), device=raw.device) + 1
        sums += (piece * factors.unsqueeze(1)).sum(0)
    return bytes(sums.cpu().numpy().tobytes()) + bytes(raw[whole:].cpu().numpy().tobytes())
