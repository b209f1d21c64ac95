"""Plain tensors as ``.pt`` files: the one place where ``torch.save`` is called, because the plan's programs read them.

Nothing but tensors, numbers, texts and containers of them is written, so ``torch.load(…, weights_only=True)`` reads
each file. The same content gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from emotion_circuits.exports.contract import File
from emotion_circuits.store import Run

Plain = torch.Tensor | dict[str, "Plain"] | list["Plain"] | str | int | float


def tensor_file(path: str, run: Run, content: Callable[[], object]) -> File:
    """A ``.pt`` file of tensors (see :func:`tensor_bytes`)."""
    return File(path, run.folder, lambda: tensor_bytes(content()))


def tensor_bytes(content: object) -> bytes:
    """``content`` as a ``.pt`` file; arrays become tensors of their own type."""
    file = io.BytesIO()
    # Into memory: written to a path, the archive would hold the file's name.
    torch.save(_plain(content), file)
    return file.getvalue()


def _plain(content: object) -> Plain:
    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.array(content, order="C"))  # a copy: a view would be saved with all that it views
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, str | int | float):
        return content
    if isinstance(content, Sequence):
        return [_plain(value) for value in content]
    raise TypeError(f"{type(content).__name__} is no plain content of a tensor file")
