"""A plain Hugging Face model back from a TransformerLens ``TransformerBridge``.

Booting a bridge replaces the submodules of the model it is given by wrappers (each keeps the module it stands for as
``_original_component``), adds split copies of fused projections, and may run the attention through code of its own.
Our hooks belong on Hugging Face's own forward, so an empty model of the same class is made and given the *same*
weight tensors: nothing is copied, and the bridge goes on working.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedModel

from emotion_circuits.errors import ModelError
from emotion_circuits.models.rounding import TOLERANCE

_WRAPPED = "_original_component"


def is_wrapped(model: nn.Module) -> bool:
    """True when some submodule was replaced by a wrapper that keeps the original inside."""
    return any(_WRAPPED in module._modules for module in model.modules())


def from_bridge(bridge: Any, wrapped: PreTrainedModel) -> PreTrainedModel:
    """The Hugging Face model inside ``bridge``, unwrapped and sharing its weights.

    Args:
        bridge: the ``TransformerBridge``. wrapped: its ``original_model``.

    Raises:
        ModelError: the bridge's weights were processed (LayerNorm folded, weights centred), so that its residual
            stream is in other coordinates than the published model's; or the unwrapped model computes something else.
    """
    if getattr(bridge, "_weights_processed", False):
        raise _refused("its weights were processed (folded or centred)")
    plain = unwrap(wrapped)
    ids = torch.arange(2, 10, device=plain.device).unsqueeze(0)
    with torch.inference_mode():
        theirs, ours = bridge(ids).float(), plain(input_ids=ids, use_cache=False).logits.float()
    error = float((theirs - ours).abs().max() / ours.std())
    if not error <= TOLERANCE.get(plain.dtype, 3e-2):
        raise _refused(f"its logits differ from the Hugging Face model's by {error:.1e} of their SD")
    return plain


def unwrap(wrapped: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and config as ``wrapped`` with the same weight tensors and no wrappers."""
    present: dict[str, torch.Tensor] = {}
    # nn.Module's own state_dict: a bridge hides its wrappers from the method of the same name.
    for name, tensor in nn.Module.state_dict(wrapped).items():
        present[".".join(part for part in name.split(".") if part != _WRAPPED)] = tensor
    with init_empty_weights(include_buffers=False):
        plain = type(wrapped)(wrapped.config)
    plain.tie_weights()
    wanted = plain.state_dict().keys()
    missing = [name for name in wanted if name not in present]
    if missing:
        raise _refused(f"{missing[0]} ({len(missing)} tensors in all) cannot be found in it")
    plain.load_state_dict({name: present[name] for name in wanted}, assign=True)
    plain.tie_weights()
    plain.generation_config = wrapped.generation_config
    # Parameters are where the bridge has them; buffers that are not saved (rotary frequencies) were made on the CPU.
    device = next(plain.parameters()).device
    for module in plain.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    return plain.eval()


def _refused(reason: str) -> ModelError:
    return ModelError(
        f"the TransformerBridge cannot be used as it is: {reason}",
        "boot it without enable_compatibility_mode(), or load the model itself with load_lm(name or folder)",
    )
