"""Texts and scores that an experiment asks for while it reads its results: batched, streamed to the run, resumable.

An experiment cannot list all its conditions before it runs: the vectors come from another run, and what is tested is
chosen on what was measured before. So it asks :class:`Measure` step by step. Every step has a name; its rows are
computed in batches that depend on the rows alone, and whatever a killed run finished is not computed again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._batches import remove_partial, require_rows, rows_of_step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.engine import Generation, Row, Sampling
    from emotion_circuits.engine.score import Metric
    from emotion_circuits.experiments._crew import Crew
    from emotion_circuits.models.lm import LM
    from emotion_circuits.scorers import Scorer
    from emotion_circuits.store import Run
    from emotion_circuits.types import Condition, Prompt

log = logging.getLogger(__name__)

GENERATIONS = "generations.jsonl"
"""Every text that a run wrote, a line each: step, prompt, condition, sample, tokens, text, stopped."""

Advance = Callable[[int, str], None]
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Measure:
    """What runs conditions for one run; ``max_rows`` caps a batch (None: chosen from free memory).

    ``scorer`` gives the evaluators of texts by name. The members of a ``crew`` compute every step together.
    """

    lm: LM
    run: Run
    max_rows: int | None
    progress: Callable[[str, int], AbstractContextManager[Advance]]
    scorer: Callable[[str], Scorer]
    crew: Crew | None = None

    def score(
        self, name: str, prompts: Sequence[Prompt], conditions: Sequence[Condition], metrics: Mapping[str, Metric]
    ) -> dict[str, NDArray[np.float32]]:
        """``{metric: [prompt, condition]}`` of the next-token logits after every prompt under every condition.

        Written to ``{name}.safetensors`` as ``[prompt × condition]`` per metric.
        """
        import numpy as np

        from emotion_circuits.engine import Row, plan_chunks, score_rows
        from emotion_circuits.store import TensorFileWriter, open_tensors

        self._ask_once(name)
        path = self.run.path(f"{name}.safetensors")
        shape = (len(prompts), len(conditions))
        if not path.exists() and (crew := self._crew(name)):
            encoded = self.lm.encode(prompts)
            rows = [Row(e, c, 0) for e in encoded for c in conditions]
            self._score_together(crew, name, rows, metrics)
        elif not path.exists():
            encoded = self.lm.encode(prompts)
            rows = [Row(e, c, 0) for e in encoded for c in conditions]
            most = self._rows(name, rows, None, lambda: remove_partial([path]), path.exists)
            chunks = plan_chunks(self.lm, rows, most)
            tensors = {metric: ((len(rows),), "float32") for metric in metrics}
            with TensorFileWriter(path, tensors) as writer, self._progress(name, len(rows)) as advance:
                missing = set(map(int, writer.missing_rows()))
                left = [chunk for chunk in chunks if not missing.isdisjoint(chunk)]
                advance(len(rows) - sum(map(len, left)), name)
                for done, values in score_rows(self.lm, rows, list(metrics.values()), chunks=left):
                    for column, metric in enumerate(metrics):
                        writer.write_rows(metric, done, np.ascontiguousarray(values[:, column]))
                    writer.finish_rows(done)
                    advance(len(done), name)
        return {metric: np.array(a).reshape(shape) for metric, a in open_tensors(path).items()}

    def generate(
        self, name: str, prompts: Sequence[Prompt], conditions: Sequence[Condition], sampling: Sampling
    ) -> list[Generation]:
        """Continuations of every prompt under every condition, prompts outermost, then conditions, then samples."""
        from emotion_circuits.engine import Row, plan_chunks

        self._ask_once(name)
        encoded = self.lm.encode(prompts)
        rows = [Row(e, c, s) for e in encoded for c in conditions for s in range(sampling.samples)]
        found = self._written(name)
        keys = [(r.encoded.prompt.id, r.condition.name, r.sample) for r in rows]
        wanted = set(keys)
        if not found.keys() >= wanted and self.crew is not None:  # others may have merged it since the file was read
            found = self._read_texts().get(name, {})
        if not found.keys() >= wanted and (crew := self._crew(name)):
            found.update(zip(keys, self._generate_together(crew, name, rows, keys, sampling), strict=True))
        elif not found.keys() >= wanted:
            most = self._rows(
                name, rows, sampling.max_new_tokens, lambda: self._forget_texts(name, found),
                lambda: found.keys() >= wanted,
            )  # fmt: skip
            chunks = plan_chunks(self.lm, rows, most)
            left = [chunk for chunk in chunks if not all(keys[i] in found for i in chunk)]
            with self._progress(name, len(rows)) as advance:
                advance(len(rows) - sum(map(len, left)), name)
                for texts in self._generated(rows, sampling, left):
                    self._keep_texts(name, texts, found)
                    advance(len(texts), name)
        return [found[key] for key in keys]

    def _ask_once(self, name: str) -> None:
        """Refuse a step that was asked before: rows are found again by their names, whatever their edits are.

        Raises :class:`ValueError`.
        """
        if name in self._asked:
            raise ValueError(f"the step {name!r} of {self.run.experiment} was asked already: give it another name")
        self._asked.add(name)

    @cached_property
    def _asked(self) -> set[str]:
        return set()

    def _crew(self, name: str) -> Crew | None:
        """The crew; what an earlier crew left unfinished is finished by this process alone in the same way."""
        from emotion_circuits.experiments._crew import Crew, begun_by_crew

        return self.crew or (Crew() if begun_by_crew(self.run, name) else None)

    def _score_together(self, crew: Crew, name: str, rows: Sequence[Any], metrics: Mapping[str, Metric]) -> None:
        from emotion_circuits.engine import plan_chunks, score_rows
        from emotion_circuits.experiments._crew_steps import share_scores
        from emotion_circuits.store import write_tensors

        path = self.run.path(f"{name}.safetensors")
        most = self._rows(name, rows, None, lambda: remove_partial([path]), path.exists, crew)
        if path.exists():  # others finished it while this process waited for them
            return
        batches = plan_chunks(self.lm, rows, most)
        with self._progress(name, len(rows)) as advance:
            values = share_scores(
                crew, self.run, name, rows, batches, list(metrics),
                lambda chunks: score_rows(self.lm, rows, list(metrics.values()), chunks=chunks),
                lambda done: advance(done, name),
            )  # fmt: skip
        with self._merging():
            if not path.exists():
                require_rows(self.run, name, most)
                write_tensors(path, values)

    def _generate_together(
        self, crew: Crew, name: str, rows: Sequence[Any], keys: Sequence[Key], sampling: Sampling
    ) -> list[Generation]:
        from emotion_circuits.engine import generate_rows, plan_chunks
        from emotion_circuits.experiments._crew_steps import share_texts
        from emotion_circuits.store import read_jsonl

        def finished() -> bool:
            return self._read_texts().get(name, {}).keys() >= set(keys)

        new = sampling.max_new_tokens
        most = self._rows(name, rows, new, lambda: self._forget_texts(name, {}), finished, crew)
        there = self._read_texts().get(name, {})
        if there.keys() >= set(keys):  # others finished it while this process waited for them
            return [there[key] for key in keys]
        batches = plan_chunks(self.lm, rows, most)

        def write(batch: Sequence[int]) -> list[Generation]:
            some = [rows[i] for i in batch]
            found = {n: g for part in generate_rows(self.lm, some, sampling, max_rows=len(some)) for n, g in part}
            return [found[n] for n in range(len(some))]

        with self._progress(name, len(rows)) as advance:
            texts = share_texts(crew, self.run, name, rows, batches, write, lambda done: advance(done, name))
        with self._merging():
            require_rows(self.run, name, most)
            lines = read_jsonl(self.run.path(GENERATIONS))
            have = {(t["prompt"], t["condition"], t["sample"]) for t in lines if t["step"] == name}
            missing = [g for g in texts if (g.prompt, g.condition, g.sample) not in have]
            self.run.append_jsonl(GENERATIONS, ({"step": name, **asdict(g)} for g in missing))
        return texts

    def _merging(self) -> AbstractContextManager[None]:
        """Held while a step's parts become a file of the run; a process that runs alone holds the run already."""
        return self.run.lock() if self.crew is not None else nullcontext()

    def _generated(
        self, rows: Sequence[Row], sampling: Sampling, chunks: Sequence[Sequence[int]]
    ) -> Iterator[list[Generation]]:
        """The texts of every batch, whole: half a batch would be another batch when it is taken up again."""
        from emotion_circuits.engine import generate_rows

        done: dict[int, Generation] = {}
        waiting = deque(chunks)
        for part in generate_rows(self.lm, rows, sampling, chunks=chunks):
            done.update(part)
            while waiting and all(i in done for i in waiting[0]):
                yield [done.pop(i) for i in waiting.popleft()]

    def _keep_texts(self, name: str, texts: Sequence[Generation], found: dict[Key, Generation]) -> None:
        new = [g for g in texts if (g.prompt, g.condition, g.sample) not in found]
        self.run.append_jsonl(GENERATIONS, ({"step": name, **asdict(g)} for g in new))
        found.update({(g.prompt, g.condition, g.sample): g for g in new})

    def _forget_texts(self, name: str, found: dict[Key, Generation]) -> None:
        """Drop the step's texts from the run: those that are written next would be of other batches."""
        found.clear()
        self.run.keep_jsonl(GENERATIONS, lambda line: line["step"] != name)

    def _written(self, name: str) -> dict[Key, Generation]:
        return self._earlier.setdefault(name, {})

    @cached_property
    def _earlier(self) -> dict[str, dict[Key, Generation]]:
        """What is written, by step: read once from earlier attempts, then kept as it grows."""
        return self._read_texts()

    def _read_texts(self) -> dict[str, dict[Key, Generation]]:
        from emotion_circuits.engine import Generation

        found: dict[str, dict[Key, Generation]] = {}
        for row in self.run.read_jsonl(GENERATIONS):
            step = found.setdefault(row.pop("step"), {})
            generation = Generation(**{**row, "tokens": tuple(row["tokens"])})
            step[generation.prompt, generation.condition, generation.sample] = generation
        return found

    def _rows(
        self, name: str, rows: Sequence[Any], new_tokens: int | None, forget: Callable[[], None],
        finished: Callable[[], bool], crew: Crew | None = None,
    ) -> int:  # fmt: skip
        """Rows of a batch: those of the first attempt where there was one, because rounding depends on them.

        Beside those of scores (``new_tokens`` None) there is room for their prompts' unedited rows.
        """
        from emotion_circuits.engine import scored_at_once
        from emotion_circuits.engine.memory import automatic_rows

        if new_tokens is None:
            wanted = scored_at_once(self.lm, rows, self.max_rows)
        else:
            wanted = self.max_rows or automatic_rows(self.lm, max(len(r.encoded) for r in rows), new_tokens)
        return rows_of_step(
            self.lm, self.run, name, wanted, forget, finished, asked=bool(self.max_rows), crew=crew,
            shared=self.crew is not None,
        )  # fmt: skip

    def _progress(self, name: str, total: int) -> AbstractContextManager[Advance]:
        log.info("%s: %d rows", name, total)
        return self.progress(f"{self.run.experiment} {self.lm.name}: {name}", total)
