"""The one model in memory: choosing it, and steering it token by token."""

from __future__ import annotations

import gc
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError
from emotion_circuits.explorer.pieces import Pieces
from emotion_circuits.explorer.steering import (
    LoadRequest,
    Place,
    PromotedRequest,
    SteerRequest,
    command,
    steer_params,
)
from emotion_circuits.store import Store, plain

if TYPE_CHECKING:
    import numpy as np

    from emotion_circuits.engine.stream import Step
    from emotion_circuits.experiments import Profile
    from emotion_circuits.explorer.queue import Job
    from emotion_circuits.models.lm import LM
    from emotion_circuits.representations.readout import Reader
    from emotion_circuits.store import Run
    from emotion_circuits.types import Prompt

ARMS = ("baseline", "steered")


@dataclass(frozen=True)
class Loaded:
    """A model with the directions that it is steered and read with."""

    lm: LM
    study: Profile
    reader: Reader
    place: Place
    seed: int = 0
    """That the directions were fitted with."""

    def facts(self) -> dict[str, Any]:
        """What the page has to know."""
        directions = self.reader.directions
        return {
            "model": self.lm.name, "profile": self.study.name, "source": self.lm.source,
            "layers": list(directions.layers), "emotions": list(directions.emotions), "notices": self.lm.notices,
            "half": directions.layers[round((len(directions.layers) - 1) / 2)], "longest": self.lm.max_length,
            "seed": self.seed,
        }  # fmt: skip


@dataclass
class Live:
    """What the page steers. All methods but :meth:`choices` run on the worker thread.

    ``load`` loads a model by name; ``profiles`` maps names of profiles to their files where they are not built in;
    ``options`` are common options that a shell command needs too (``--dtype …``).
    """

    results: Path
    load: Callable[[str], LM]
    profiles: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    loaded: Loaded | None = None

    def choices(self) -> list[dict[str, str]]:
        """Models that have finished directions, newest first."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for run in self._fitted():
            choice = {"model": _typed(run), "name": run.model, "profile": run.profile}
            found.setdefault((run.profile, run.model), choice)
        return list(found.values())

    def _fitted(self) -> list[Run]:
        """Finished ``directions`` runs, newest first."""
        found = Store(self.results).find(experiment="directions") if self.results.is_dir() else []
        return [run for run in reversed(found) if run.done]

    def change_model(self, request: LoadRequest, job: Job) -> None:
        """Put another model in the place of the one in memory, which stays where the folder has no directions of it.

        Raises:
            UsageError: it has no directions here. ModelError: it cannot be loaded.
        """
        from emotion_circuits.experiments import Workbench, load_profile, run_experiment
        from emotion_circuits.experiments._runner import prepare
        from emotion_circuits.experiments.readout import load_reader

        profile = self.profiles.get(request.profile, request.profile)
        study = load_profile(profile)
        seeds = [
            r.inputs.get("seed", 0) for r in self._fitted() if (_typed(r), r.profile) == (request.model, study.name)
        ]
        if not seeds:
            raise self._without_directions(request.model, request.model, profile)
        self.loaded = None
        gc.collect()  # one model in memory: the old one goes before the new one comes
        job.say("loading", model=request.model)
        lm = self.load(request.model)
        params: Any = study.params("readout.scale")
        for seed in dict.fromkeys(seeds):
            bench = Workbench(Store(self.results), study.name, lambda: lm, seed, progress=_calibrating(job, lm.name))
            directions = prepare("readout.scale", params, bench).required["directions"].run
            if directions.done:
                break
        else:  # other weights, or a profile that was changed: known only now
            raise self._without_directions(lm.name, request.model, profile)
        job.check()
        scale = run_experiment("readout.scale", params, bench)
        place = Place(request.model, profile, str(self.results.resolve()), self.options)
        self.loaded = Loaded(lm, study, load_reader(directions, scale, params), place, seed)
        job.say("loaded", **plain(self.loaded.facts()))

    def steer(self, request: SteerRequest, job: Job) -> None:
        """Write the text without and with the edit, side by side."""
        from emotion_circuits.engine import Row
        from emotion_circuits.engine.stream import stream
        from emotion_circuits.experiments._expressed import expression_conditions, sampling_of
        from emotion_circuits.experiments.steer import steer_prompts
        from emotion_circuits.explorer.damage import damage

        started = time.perf_counter()
        loaded = self._require()
        lm, reader = loaded.lm, loaded.reader
        params: Any = loaded.study.params("steer", steer_params(request))
        conditions = expression_conditions(reader.directions, params)
        (prompt,) = steer_prompts(lm, params)
        (encoded,) = lm.encode([prompt])
        job.say("start", expression=conditions[1].name, command=command(request, loaded.place),
                layers=reader.directions.layers, emotions=reader.directions.emotions)  # fmt: skip
        teller = _Teller(lm, reader, job, started)
        rows = [Row(encoded, c) for c in conditions]
        written = stream(lm, rows, sampling_of(params, request.seed), reader.directions.layers, teller.step)
        for arm, generation in zip(ARMS, written, strict=True):
            job.say("text", arm=arm, text=generation.text, tokens=len(generation.tokens), stopped=generation.stopped)
        job.say("damage", **plain(damage(lm, prompt, *written)))
        job.check()
        job.say("prompt", **_prompt_readout(lm, prompt, reader))
        job.say("done", seconds=round(time.perf_counter() - started, 3))

    def promoted(self, request: PromotedRequest, job: Job) -> None:
        """The next tokens that every direction makes likelier and unlikelier at one layer."""
        from emotion_circuits.representations.readout import promoted_tokens

        loaded = self._require()
        rows = []
        for emotion in loaded.reader.directions.emotions:
            job.check()
            found = promoted_tokens(loaded.lm, loaded.reader.directions, emotion, request.layer, request.count)
            rows.append({"emotion": emotion, **found})
        job.say("promoted", layer=request.layer, rows=rows)

    def _without_directions(self, name: str, model: str, profile: str) -> UsageError:
        words = ["emotion-circuits", "run", "directions", "--model", model, "--profile", profile]
        return UsageError(
            f"{self.results} has no directions of {name} for profile {profile!r} as it is now",
            shlex.join([*words, "--results", str(self.results), *self.options]),
        )

    def _require(self) -> Loaded:
        if self.loaded is None:
            raise UsageError("no model is in memory", "choose one and press Load")
        return self.loaded


def _calibrating(job: Job, model: str) -> Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]:
    """A progress display that tells the page how many neutral texts were read, and ends the work when it has gone."""

    @contextmanager
    def opened(description: str, texts: int) -> Iterator[Callable[[int, str], None]]:
        read = 0

        def advance(more: int, note: str = "") -> None:
            nonlocal read
            read += more
            job.say("calibrating", model=model, read=read, texts=texts)
            job.check()

        if texts:  # the run's captures have a display of their own, and there are none
            job.say("calibrating", model=model, read=0, texts=texts)
        yield advance

    return opened


class _Teller:
    """Turns the steps of a stream into events: a piece of text, and the readout of the token before it."""

    def __init__(self, lm: LM, reader: Reader, job: Job, started: float) -> None:
        self._reader, self._job, self._started = reader, job, started
        self._tokens: tuple[list[int], ...] = tuple([] for _ in ARMS)
        self._pieces = tuple(Pieces(lm.tokenizer) for _ in ARMS)

    def step(self, step: Step) -> None:
        self._job.check()
        arm = ARMS[step.row]
        # Step 0 reads the prompt's last token, which belongs to the prompt.
        reading = _rounded(self._reader.read(step.residual[None])[0]) if step.step else None
        piece, repetition = None, None
        if step.token is not None:
            self._tokens[step.row].append(step.token)
            piece = self._pieces[step.row].add(step.token)
            repetition = self._repetition(step.row)
        self._job.say(
            "token", arm=arm, index=step.step, piece=piece, reading=reading, rep4=repetition,
            ms=round(1000 * (time.perf_counter() - self._started), 1),
        )  # fmt: skip

    def _repetition(self, row: int) -> float | None:
        from emotion_circuits.scorers.fluency import repetition

        value = repetition(self._tokens[row])
        return None if value != value else round(value, 3)


def _prompt_readout(lm: LM, prompt: Prompt, reader: Reader) -> dict[str, Any]:
    from emotion_circuits.representations.readout import readout

    found = readout(lm, prompt, reader.directions, reader.scale, method=reader.method)
    return {"spans": found.spans, "text": found.text, "values": [_rounded(v) for v in found.values]}


def _rounded(values: np.ndarray[Any, Any]) -> list[list[float]]:
    """``[layer][emotion]`` with two decimals."""
    return [[round(float(x), 2) for x in row] for row in values]


def _typed(run: Run) -> str:
    """What to type for the model of a run."""
    from emotion_circuits.models.registry import find_entry

    model, source = run.model, str(run.recorded.get("source", ""))
    if find_entry(model) is not None:
        return model
    if found := re.match(r"folder (.+?)(?: \(.*\))?$", source):
        return found[1]
    if found := re.match(r"hub (\S+)@[0-9a-f]+$", source):
        return found[1]
    return model
