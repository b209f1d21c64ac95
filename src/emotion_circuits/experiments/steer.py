"""``steer``: your own text, one emotion's vector, several strengths: read what the model writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    TextStep,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import (
    BASELINE_NAME,
    SITE,
    STEERED,
    SteeringParams,
    Strengths,
    Unit,
    Vectors,
    expected_emotions,
    layer_or_middle,
    required_runs,
    unit_inputs,
)
from emotion_circuits.types import Condition, Positions, Prompt, Section, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments._texts import ScoredTexts
    from emotion_circuits.models.lm import LM


@experiment("steer", "Continue your own text with an emotion added at several strengths, and read the result.")
class Steer(Experiment):
    """A look, not a test: one layer, texts with their evaluators and damage beside them."""

    class Params(SteeringParams):
        """Parameters of ``steer``."""

        text: tuple[str, ...] = Field(("The package arrived on Tuesday and",), description="Texts to continue.")
        emotion: str = Field("gratitude", description="Whose vector is added.")
        layer: int | None = Field(None, description="Layer (default: half-way through the model).")
        strengths: Strengths = Field((-0.4, 0.0, 0.2, 0.4), description="Strengths to try.")
        unit: Unit = Field(
            "fraction", description="fraction of the residual norm, raw multiples, or sd on neutral text."
        )
        temperature: float = Field(0.0, ge=0, description="0: greedy.")
        top_p: float = Field(0.9, gt=0, le=1, description="Nucleus, where the temperature is above 0.")
        samples: int = Field(1, ge=1, description="Texts per strength, where the temperature is above 0.")
        expression: str | None = Field(
            None,
            description="Several emotions at once, in place of --emotion, --strengths and --unit: "
            '"0.4 gratitude @ L14 - 0.2 anger". Its unit is the residual norm that the directions were read at.',
        )
        vector: Path | None = Field(
            None, description="Your own vector: a safetensors file with one tensor of the model's width."
        )
        patch_window: int | None = Field(None, ge=1, description="The plan's name of --at window:W.")
        patch_positions: tuple[int, ...] = Field((), description="The plan's name of --at at:N,N.")
        patch_new_only: bool = Field(False, description="The plan's name of --at generated.")
        alpha_schedule: str | None = Field(None, description="The plan's name of --schedule.")
        alpha_decay_rate: float | None = Field(None, description="The plan's name of --decay-rate.")
        chat: bool = Field(False, description="Give each text as a user turn of the model's chat template.")

        @model_validator(mode="before")
        @classmethod
        def _plan_names(cls, given: Any) -> Any:
            return _translated(given) if isinstance(given, Mapping) else given

        @model_validator(mode="after")
        def _one_way_to_say_it(self) -> Steer.Params:
            if self.expression is not None:
                from emotion_circuits.representations.expression import parse_expression

                parse_expression(self.expression)
                for said in ("emotion", "strengths", "unit", "vector"):
                    if said in self.model_fields_set:
                        raise UsageError(
                            f"--expression says what --{said} says", f"leave --{said} out, or write no expression"
                        )
            return self

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._endpoint import own_words
        from emotion_circuits.store import fingerprint_file

        words = own_words(expected_emotions(params))
        if params.vector is None:
            return {**unit_inputs(_units(params)), **words}
        if not params.vector.is_file():
            raise UsageError(f"there is no file {params.vector}", "give --vector a safetensors file with one vector")
        return {"vector": fingerprint_file(params.vector), **words}

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        """The texts' own activations; refuses emotions without a direction before anything is captured."""
        _require_known(params)
        layer_or_middle(lm, params.layer)
        if params.expression is not None:
            return ()
        return [CaptureStep(STEERED, steer_prompts(lm, params), (SITE,), (Positions("last"),))]

    def workload(self, lm: LM, params: Params) -> Sequence[TextStep]:
        conditions = len(params.strengths) if params.expression is None else 2
        return [TextStep("texts", steer_prompts(lm, params), conditions, params.max_new_tokens, params.samples,
                         layer_or_middle(lm, params.layer), Positions.parse(params.at))]  # fmt: skip

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.engine import Sampling
        from emotion_circuits.experiments._texts import write_texts

        if params.expression is not None:
            from emotion_circuits.experiments._expressed import summarise_expression

            return summarise_expression(context, params)
        vectors, layer = Vectors(context, params), layer_or_middle(context.lm, params.layer)
        vector, length = _vector(vectors, params, layer)
        conditions = [
            Condition(_name(s), (vectors.add(vector, layer, s * length),) if s else ()) for s in params.strengths
        ]
        sampling = Sampling(params.max_new_tokens, params.temperature, params.top_p, params.samples, context.seed)
        prompts = steer_prompts(context.lm, params)
        texts = write_texts(context.measure, "texts", prompts, conditions, sampling, vectors.emotions)
        rows = [
            {
                "prompt": given, "alpha": s, "sample": k, "text": texts.texts(_name(s), k)[i],
                **scores_of_text(texts, params.emotion, _name(s), i, k),
            }
            for i, given in enumerate(params.text)
            for s in params.strengths
            for k in range(sampling.samples)
        ]  # fmt: skip
        columns = {"prompt": "prompt", "alpha": "α", "text": "text", "embedded": "classifier", "lexicon": "words",
                   "rep4": "rep-4"}  # fmt: skip
        table = Table("texts", f"{params.emotion} at layer {layer}", f"Strength in {params.unit}.", columns, rows)
        said = _lines(rows, params.emotion)
        section = Section("steer", f"Your text with {params.emotion}", [], tables=[table])
        return Outcome({"layer": layer, "unit": params.unit, "emotion": params.emotion, "results": rows}, said, section)


def _lines(rows: Sequence[Mapping[str, Any]], emotion: str) -> list[str]:
    """The texts for a terminal: each given text once, and below it what was written at every strength."""
    said: list[str] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is None or before["prompt"] != row["prompt"]:
            said.append(f"{' '.join(str(row['prompt']).split())} …")
        scores = [(emotion, row["embedded"]), ("rep-4", row["rep4"])]
        known = ", ".join(f"{name} {value:.2f}" for name, value in scores if value is not None)
        shown = f" ({known})" if known else ""
        said.append(f"  α {row['alpha']:+g}{shown}: {' '.join(str(row['text']).split())}")
    return said


def _translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's option names as ours; both names of one thing are refused."""
    found = {key: value for key, value in given.items() if key not in _PLAN}
    for key, (ours, write) in _PLAN.items():
        value = given.get(key)
        if value is None or value is False or value == ():
            continue
        if ours in found:
            name = key.replace("_", "-")
            raise UsageError(
                f"--{name} says again what {ours.replace('_', ' ')} is", f"give one of --{name} and --{ours}"
            )
        found[ours] = write(value)
    return found


_PLAN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "patch_window": ("at", lambda width: f"window:{width}"),
    "patch_positions": ("at", lambda places: "at:" + ",".join(map(str, places))),
    "patch_new_only": ("at", lambda _: "generated"),
    "alpha_schedule": ("schedule", str),
    "alpha_decay_rate": ("decay_rate", float),
}
"""The original plan's names: which parameter of ours each one is, and how its value is written there."""


def _units(params: Steer.Params) -> set[Unit]:
    """The units in which something is added."""
    if params.expression is None:
        return {params.unit}
    from emotion_circuits.representations.expression import parse_expression

    return {term.unit for term in parse_expression(params.expression).terms}


def _require_known(params: Steer.Params) -> None:
    """Raise for an emotion without a direction, before anything is captured or fitted for it."""
    from emotion_circuits.experiments._fitted import fitted_emotions
    from emotion_circuits.representations.expression import parse_expression

    if params.vector is not None:  # the vector is there; --emotion only says whose scores stand beside the texts
        return
    known = fitted_emotions(params.directions)
    for emotion in (params.emotion,) if params.expression is None else parse_expression(params.expression).emotions:
        if emotion not in known:
            raise unknown_name("emotion", emotion, list(known))


def steer_prompts(lm: LM, params: Steer.Params) -> tuple[Prompt, ...]:
    """The texts that are continued."""
    if not params.text or not all(t.strip() for t in params.text):
        raise UsageError("there is no text to continue", 'give --text "The package arrived on Tuesday and"')
    given = tuple(Prompt(f"text-{i}", t) for i, t in enumerate(params.text))
    if not params.chat:
        return given
    from emotion_circuits.models.chat import chat_prompts

    return tuple(chat_prompts(lm, given))


def _vector(vectors: Vectors, params: Steer.Params, layer: int) -> tuple[NDArray[np.floating[Any]], float]:
    """The vector to add and its length at strength 1."""
    if params.vector is None:
        return vectors.vector(params.emotion, layer), vectors.length(params.emotion, layer, params.unit)
    import numpy as np

    own = load_vector(params.vector, vectors.context.lm)
    if params.unit == "sd":
        raise UsageError("the unit sd is not known for a vector from a file", "use --unit fraction or raw")
    length = vectors.residual_norm[layer] if params.unit == "fraction" else float(np.linalg.norm(own))
    return own, length


def load_vector(path: Path, lm: LM) -> NDArray[np.floating[Any]]:
    """The one vector of a safetensors file, checked against the model.

    Raises:
        UsageError: several tensors, a vector of another width, or of another model (where the file names one).
    """
    import numpy as np

    from emotion_circuits.store import open_tensors
    from emotion_circuits.store.tensors import read_metadata

    arrays = open_tensors(path)
    made_for = read_metadata(path).get("weights")
    if made_for is not None and made_for != lm.fingerprint:
        raise UsageError(
            f"{path} holds vectors of another model than {lm.name}",
            "extract them from this model: emotion-circuits run directions --model …",
        )
    if len(arrays) != 1:
        names = ", ".join(list(arrays)[:5])
        raise UsageError(f"{path} holds {len(arrays)} tensors ({names})", "give a file with one vector")
    vector = np.asarray(next(iter(arrays.values())), dtype=np.float64).squeeze()
    if vector.shape != (lm.d_model,):
        raise UsageError(
            f"the vector of {path} has shape {vector.shape}; the residual stream of {lm.name} is {lm.d_model} wide",
            "use a vector that was extracted from this model",
        )
    return vector


def _name(strength: float) -> str:
    return BASELINE_NAME if strength == 0 else f"{strength:+g}"


def scores_of_text(
    texts: ScoredTexts, emotion: str, condition: str, prompt: int, sample: int
) -> dict[str, float | None]:
    """Evaluators and damage of one text, by short names."""
    wanted = {"embedded": f"embedded:{emotion}", "lexicon": f"lexicon:{emotion}", "vader": "vader", "rep4": "rep4",
              "log_perplexity": "log_perplexity"}  # fmt: skip
    found: dict[str, float | None] = {}
    for short, scorer in wanted.items():
        value = float(texts.of(scorer, condition)[prompt, sample]) if scorer in texts.values else None
        found[short] = None if value is None or value != value else value
    return found
