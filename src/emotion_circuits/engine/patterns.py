"""Attention patterns, read and edited inside the model's own eager attention.

Hugging Face attention calls ``torch.nn.functional.softmax`` exactly once per layer when it runs eagerly. A
``TorchFunctionMode`` that is active only while the attention module runs sees that call, its output and nothing else,
in every family (GPT-Neo included), without replacing any model code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from emotion_circuits.errors import ContractError
from emotion_circuits.models.lm import LM

PatternVisitor = Callable[[Tensor], "Tensor | None"]
"""Sees a pattern ``[row, head, query, key]``; returns a replacement or None."""


class _SoftmaxMode(TorchFunctionMode):
    def __init__(self, visitor: PatternVisitor) -> None:
        super().__init__()
        self.visitor = visitor
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.softmax:
            self.calls += 1
            replacement = self.visitor(out)
            out = out if replacement is None else replacement
        return out


class PatternHooks:
    """Visits the patterns of some layers, inside ``with`` only; attention must be eager (``lm.eager_attention()``).

    Raises on entering when attention is not eager, and on the first forward in which a layer does not call softmax
    exactly once (fused attention, or a model that computes its pattern another way); on leaving when a visited layer
    never ran.
    """

    def __init__(self, lm: LM, visitors: Mapping[int, PatternVisitor]) -> None:
        self._lm = lm
        self._visitors = visitors
        self._handles: list[RemovableHandle] = []
        self._active: list[_SoftmaxMode] = []
        self._fired: set[int] = set()

    def __enter__(self) -> PatternHooks:
        if self._lm.config._attn_implementation != "eager":
            raise ContractError(
                "patterns exist only with eager attention", "wrap the call in `with lm.eager_attention():`"
            )
        for layer, visitor in self._visitors.items():
            self._attach(self._lm.module(layer, "attention"), layer, visitor)
        return self

    def _attach(self, attention: nn.Module, layer: int, visitor: PatternVisitor) -> None:
        def enter(module: nn.Module, args: Any) -> None:
            mode = _SoftmaxMode(visitor)
            mode.__enter__()
            self._active.append(mode)
            self._fired.add(layer)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            # `always_call`: also runs when the attention raised, so that the mode never outlives its module. With an
            # exception under way (output None) the count is not judged.
            if not self._active:
                return
            mode = self._active.pop()
            mode.__exit__(None, None, None)
            if output is not None and mode.calls != 1:
                raise ContractError(f"layer {layer} called softmax {mode.calls} times where one pattern was expected")

        self._handles.append(attention.register_forward_pre_hook(enter))
        self._handles.append(attention.register_forward_hook(leave, always_call=True))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._active:  # Ctrl-C is no Exception: PyTorch calls no hook then, not even an `always_call` one
            self._active.pop().__exit__(None, None, None)
        if kind is None and (silent := sorted(set(self._visitors) - self._fired)):
            raise ContractError(
                f"the attention of layer {silent[0]} never ran ({len(silent)} layers in all)",
                "the model's forward does not call the module its family names; run `emotion-circuits doctor`",
            )
