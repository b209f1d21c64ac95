"""The research questions in order: each with its answers and what did not finish, or with the command that asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from emotion_circuits.report.checklist import FAILED, how_to_add
from emotion_circuits.report.commands import EMBEDDED, Asked, study_command, typed_models
from emotion_circuits.report.failures import lost_by, models_of, name_of
from emotion_circuits.report.variants import said
from emotion_circuits.types import Verdict

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study

QUESTIONS = {
    1: ("Where is each emotion?", ("directions",)),
    2: ("Is it shared between models?", ("transfer",)),
    3: ("Does it cause what the model writes?", ("sweep",)),
    4: ("Which parts carry it?", ("heads.screen", "circuit.report")),
}
"""Research questions and the experiments that answer them."""


def verdicts(study: Study, asked: Asked) -> list[Verdict]:
    """The research questions in order, each answered or with the reason why not."""
    models = models_of(study)
    found = []
    for number, (question, names) in QUESTIONS.items():
        answers = _answers(study, names, models)
        planned = any(name in names for name, _ in study.profile.experiments)
        lacks_a_model = number == 2 and planned and len(models) < 2
        # What one model lost of a question about two is not what keeps it from being answered.
        lost = [] if lacks_a_model else [f"{f.model}: {FAILED} ({f.experiment})" for f in lost_by(study, names)]
        if answers:
            reason = ""
        elif lacks_a_model:
            reason = _second_model(study, asked, models)
        elif lost:
            reason = FAILED
        else:
            what = "not run yet" if planned else "not part of this study"
            reason = f"{what}: {how_to_add(study, names[0], asked)}"
        found.append(Verdict(f"Question {number}. {question}", [*answers, *lost] if answers else [], reason))
    return found


def _answers(study: Study, names: Sequence[str], models: Sequence[str]) -> list[str]:
    """What the runs of some experiments answer, a line each, with the model in front where there are several."""
    return [
        f"{'' if models == [run.model] or run.experiment == 'transfer' else run.model + ': '}{line}"
        for run in study.runs
        if run.experiment in names
        for line in said(run, study.profile)
    ]


def _second_model(study: Study, asked: Asked, models: Sequence[str]) -> str:
    """Which flag brings a second model into the study, and the whole command: ``--model`` replaces a profile's own."""
    every = typed_models(study, asked)
    # What finished nothing may be mistyped: it is neither typed again nor proposed, unless there is nothing else.
    typed = [name for name in every if name_of(name, study) in models] or every or [*models]
    others = [name for name in EMBEDDED if name not in models]
    other = next((name for name in others if name not in every), others[0])
    whole = replace(asked, models=[*dict.fromkeys([*typed, other])])
    return f"not asked: add --model {other}: {study_command(study, whole)}"
