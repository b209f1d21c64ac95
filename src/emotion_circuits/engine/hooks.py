"""Hooks that cannot be forgotten: registered in a context, counted, and gone when it is left, also by an exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from emotion_circuits.errors import ContractError

Side = Literal["input", "output"]
Visitor = Callable[[torch.Tensor], "torch.Tensor | None"]
"""Sees an activation; returns a replacement, or None to leave the model's own tensor untouched (bit-exact)."""


class Hooks:
    """A set of hooks on a model's modules, alive inside ``with`` only.

    ``visit(module, side, name, visitor)`` before entering; ``fired[name]`` counts afterwards. Leaving without an
    exception checks that every hook fired at least ``minimum`` times: an intervention that never fired is an error.
    """

    def __init__(self, minimum: int = 1) -> None:
        self.fired: Counter[str] = Counter()
        self._minimum = minimum
        self._wanted: list[tuple[nn.Module, Side, str, Visitor]] = []
        self._handles: list[RemovableHandle] = []

    def visit(self, module: nn.Module, side: Side, name: str, visitor: Visitor) -> None:
        """Ask for ``visitor`` to see ``module``'s hidden-state input or its (first) output."""
        self._wanted.append((module, side, name, visitor))

    def __enter__(self) -> Hooks:
        for module, side, name, visitor in self._wanted:
            if side == "input":
                hook = self._on_input(name, visitor)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(module.register_forward_hook(self._on_output(name, visitor)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if kind is None:
            silent = [name for *_, name, _ in self._wanted if self.fired[name] < self._minimum]
            if silent:
                raise ContractError(
                    f"hook {silent[0]} never fired ({len(silent)} in all)",
                    "the model's forward does not call the module its family names; run `emotion-circuits doctor`",
                )

    def _on_input(self, name: str, visitor: Visitor) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.fired[name] += 1
            replacement = visitor(args[0] if args else kwargs["hidden_states"])
            if replacement is None:
                return None
            if args:
                return (replacement, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": replacement}

        return hook

    def _on_output(self, name: str, visitor: Visitor) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            self.fired[name] += 1
            first = output[0] if isinstance(output, tuple) else output
            replacement = visitor(first)
            if replacement is None:
                return None
            return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

        return hook


def count_hooks(model: nn.Module) -> int:
    """How many forward hooks any module of the model carries (accelerate's are none: it wraps ``forward``)."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
