"""The direction that components are scored along, checked before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM


def checked_direction(
    lm: LM, direction: NDArray[np.floating[Any]], site: str = ""
) -> Float[NDArray[np.float64], " d_model"]:
    """The direction as float64, of the length it has; ``site`` says in the error where it is read.

    Raises:
        UsageError: another width than the residual stream, zero, or no numbers.
    """
    vector = np.asarray(direction, dtype=np.float64)
    norm = float(np.linalg.norm(vector))
    if vector.shape != (lm.d_model,) or norm == 0 or not np.isfinite(norm):
        at = f" at {site}" if site else ""
        raise UsageError(
            f"a direction{at} of {lm.name} has shape ({lm.d_model},) and is not zero; "
            f"got shape {vector.shape} with norm {norm:.3g}",
            "use a direction that was extracted from this model",
        )
    return vector
