"""What a failure cost a study: the answers of its own experiment, and of those that the study then skipped."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.experiments._study import kinds
from emotion_circuits.models.registry import model_slug
from emotion_circuits.report.commands import addresses
from emotion_circuits.store import ARROW, PAIR, slug

if TYPE_CHECKING:
    from emotion_circuits.experiments import Failure, Study


def lost_by(study: Study, names: Collection[str]) -> list[Failure]:
    """The failures that cost the study an answer of one of the experiments ``names``.

    Their own experiment is one of these; or it stands before one of these that the study plans, and nobody ran that
    one: within a model everything after a failure is skipped, and a pair needs both of its models sound.
    """
    return [f for f in study.failures if f.experiment in names or _skipped(study, f, names)]


def models_of(study: Study) -> list[str]:
    """The names of the models that the study is of; one that finished nothing has no part in it, as twins have none."""
    return [*addresses(study)]


def name_of(typed: str, study: Study) -> str:
    """The name that the runs have of a model as it was typed; the name of its results folder where it has no run."""
    known, folder = addresses(study), slug(typed)
    for name, address in known.items():
        if typed in (name, address) or model_slug(typed) == name or _whole(typed) == _whole(address):
            return name
    # A file's or a folder's name carries six digits of what it names.
    marked = re.compile(re.escape(folder) + r"(-[0-9a-f]{6})?", re.IGNORECASE)
    # A whole path that is not the address of a model is another model, though the last part be the same.
    whole = Path(typed).expanduser().is_absolute()
    like = (name for name, address in known.items() if marked.fullmatch(name) and not (whole and address != name))
    return next(like, folder)


def folder_of(failed: str, study: Study) -> str:
    """The folder that the runs have of what failed: of a model, or of a pair of models, as it was typed."""
    return PAIR.join(name_of(typed, study) for typed in failed.split(ARROW))


def typed_with_others(models: Sequence[str], study: Study) -> list[str]:
    """``models`` as they were typed, and what to type for the other models of the study."""
    known = {name_of(typed, study) for typed in models}
    return [*models, *(address for name, address in addresses(study).items() if name not in known)]


def _whole(address: str) -> Path:
    return Path(address).expanduser().resolve()


def _skipped(study: Study, failure: Failure, names: Collection[str]) -> bool:
    """Whether the study planned one of ``names`` after what failed, and has no run of it."""
    single, paired = kinds(study.profile)
    order = [*single, *paired]
    if failure.experiment not in order:
        return False
    after = [name for name in order[order.index(failure.experiment) + 1 :] if name in names]
    folder = folder_of(failure.model, study)
    wanted = {(folder, name) for name in after if (name in paired) == (failure.experiment in paired)}
    if failure.experiment in single:
        pairs = _pairs_with(folder, study)
        wanted |= set(itertools.product(pairs, (name for name in after if name in paired)))
    return bool(wanted - {(run.model, run.experiment) for run in study.runs})


def _pairs_with(model: str, study: Study) -> Sequence[str]:
    models = dict.fromkeys([*models_of(study), model])
    return [PAIR.join(pair) for pair in study.profile.pairs_of([*models]) if model in pair]
