"""What a model family has to say about itself so that every other module can stay family-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Projection = Literal["q", "k", "v"]


@dataclass(frozen=True)
class QKV:
    """Where queries, keys and values are computed and how heads are laid out in the projection's output.

    ``module[p]`` is the path inside the attention module. ``heads(out, p, d_head)`` views ``[..., out_features]`` as
    ``[..., head, d_head]`` without copying, so that the same function reads activations, edits them in place, and
    splits the transposed weight matrix into heads.
    """

    module: dict[Projection, str]
    heads: Callable[[Tensor, Projection, int], Tensor]


def separate(out: Tensor, projection: Projection, d_head: int) -> Tensor:
    """One projection module each (GPT-Neo, Llama-like, Gemma): ``[..., head · d_head]``."""
    return out.unflatten(-1, (-1, d_head))


def concatenated(out: Tensor, projection: Projection, d_head: int) -> Tensor:
    """One fused module, all queries first, then keys, then values (GPT-2)."""
    return out.unflatten(-1, (3, -1, d_head)).select(-3, "qkv".index(projection))


def interleaved(out: Tensor, projection: Projection, d_head: int) -> Tensor:
    """One fused module, query, key and value of head 0, then of head 1, … (GPT-NeoX, Pythia)."""
    return out.unflatten(-1, (-1, 3, d_head)).select(-2, "qkv".index(projection))


SEPARATE = QKV({"q": "q_proj", "k": "k_proj", "v": "v_proj"}, separate)


def _sequential(config: Any) -> bool:
    return False


@dataclass(frozen=True)
class Family:
    """Module paths of one family; the defaults are the llama-like layout.

    ``blocks`` and ``final_norm`` are paths inside the decoder (``model.get_decoder()``), ``attention``, ``mlp`` and the
    norms inside a block, ``out_projection`` inside the attention, ``down_projection`` inside the MLP.
    ``post_attention_norm``/``post_mlp_norm`` are norms applied to a sublayer's *output* before it enters the residual
    (Gemma 3). ``norm`` is the kind of the norms: "layer" subtracts the mean and has a bias, "rms" does
    neither, "rms-plus-one" multiplies by 1 + w instead of w (Gemma). ``prefix_tokens`` are tried in
    order when neither the registry nor the tokenizer names a token to put in front of every text.
    ``qk_from_weights`` says whether attention scores are a bilinear form of the normed residual stream alone (no
    rotary embedding, no query/key norm).
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str = "layers"
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    out_projection: str = "o_proj"
    qkv: QKV = SEPARATE
    mlp_norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    down_projection: str = "down_proj"
    final_norm: str = "norm"
    post_attention_norm: str | None = None
    post_mlp_norm: str | None = None
    norm: Literal["layer", "rms", "rms-plus-one"] = "rms"
    parallel: Callable[[Any], bool] = _sequential
    prefix_tokens: tuple[str, ...] = ()
    qk_from_weights: bool = False
