"""The texts that directions were fitted on, as an ``extract`` run captured them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.extract import TEXTS, WORDS, emotions_of, select_sets
from emotion_circuits.prompts.matching import AT
from emotion_circuits.types import NEUTRAL, Positions, Prompt, SiteKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emotion_circuits.experiments.directions import Directions
    from emotion_circuits.representations import Labelled
    from emotion_circuits.store import Run


def captured(extract: Run, kind: SiteKind, position: Positions) -> Labelled:
    """Every text of an ``extract`` run at one site kind and position."""
    from emotion_circuits.experiments._captured import load_capture
    from emotion_circuits.representations import labelled

    return labelled(load_capture(extract, WORDS if position.kind == "emotion-word" else TEXTS), kind, position)


def only(data: Labelled, texts: Sequence[Prompt]) -> Labelled:
    """The captured texts that are among ``texts`` (twins read at an emotion's words go with their text)."""
    import numpy as np

    ids = {p.id for p in texts}
    return data.select(np.array([all(part in ids for part in i.split(AT)) for i in data.ids]))


def fit_texts(extract: Run, params: Directions.Params, kind: SiteKind, position: str) -> Labelled:
    """The texts that the directions of these parameters were fitted on."""
    return only(captured(extract, kind, Positions.parse(position)), fitted_set(params)).split("fit")


def neutral_fit_texts(run: Run, kind: SiteKind, position: str) -> NDArray[Any]:
    """``[text, layer, d]``: the neutral texts that a finished ``directions`` run was fitted on.

    They are read from the ``extract`` run that it required, which lies beside it.

    Raises:
        UsageError: that run is gone, or the prompt set has other texts by now.
    """
    from emotion_circuits.experiments._captured import fingerprint_prompts
    from emotion_circuits.experiments.directions import Directions
    from emotion_circuits.store import Run

    extract = Run(run.folder.parents[1] / "extract" / run.inputs["required"]["extract"], {})
    model, results = run.recorded.get("addresses", [""])[0] or run.model, run.folder.parents[3]
    words = ["emotion-circuits", "run", "directions", "--model", model, "--profile", run.profile, "--results", results]
    again = shlex.join(map(str, words))
    if not extract.done:
        raise UsageError(
            f"the unit sd needs the neutral texts that {run.folder} was fitted on, and their capture {extract.folder} "
            "is gone", f"{again} --force",
        )  # fmt: skip
    params = Directions.Params.model_validate(run.inputs["params"])
    if fingerprint_prompts(fitted_set(params)) != run.inputs["sets"][params.prompts]:
        raise UsageError(
            f"the unit sd needs the neutral texts that {run.folder} was fitted on, and {params.prompts} has other "
            "texts by now", again,
        )  # fmt: skip
    data = fit_texts(extract, params, kind, position)
    neutral: NDArray[Any] = data.x[data.labels == NEUTRAL]
    return neutral


def fitted_set(params: Directions.Params) -> tuple[Prompt, ...]:
    """The prompt set that directions of these parameters are fitted on, all splits."""
    return select_sets((params.prompts,), params.emotions, params.scenarios)[params.prompts]


def fitted_emotions(params: Directions.Params) -> tuple[str, ...]:
    """The emotions that directions of these parameters have: those of the texts they are fitted on."""
    return params.emotions or emotions_of(fitted_set(params))
