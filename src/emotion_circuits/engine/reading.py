"""Which tokens a forward pass is reading, seen from outside: what a pattern alone does not tell under a KV cache."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from emotion_circuits.errors import ContractError
from emotion_circuits.models.lm import LM


class Reading:
    """Inside ``with``, ``ids`` and ``positions`` ``[row, token]`` are those of the decoder's current forward pass."""

    def __init__(self, lm: LM) -> None:
        self._decoder = lm.decoder
        self._handle: RemovableHandle | None = None
        self.ids: Tensor | None = None
        self.positions: Tensor | None = None

    def __enter__(self) -> Reading:
        self._handle = self._decoder.register_forward_pre_hook(self._see, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self.ids = self.positions = None

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.ids = args[0] if args else kwargs.get("input_ids")
        self.positions = kwargs.get("position_ids")

    def current(self) -> tuple[Tensor | None, Tensor]:
        """Ids (None where a wrapper hands over embeddings instead) and positions of the pass that is running.

        Raises:
            ContractError: the pass was started without explicit positions.
        """
        if self.positions is None:
            raise ContractError(
                "a forward pass inside a routing patch does not say at which positions its tokens stand",
                "run it with generate(), score() or the other functions of the engine",
            )
        return self.ids, self.positions
