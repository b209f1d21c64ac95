"""Patching heads from emotional texts into their twins: the endpoint against random heads, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.circuits.components import Grid, Head
from emotion_circuits.circuits.conditions import transplant
from emotion_circuits.circuits.pairs import Pair, align, length_matched
from emotion_circuits.circuits.routing import routed
from emotion_circuits.engine import Generation, Sampling, score
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.interventions import resample_ablation
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._heads import Bench, Subject, beats_random, matched_sets
from emotion_circuits.stats import UnclearDenominatorError, bootstrap_interval, permutation_p, ratio_interval
from emotion_circuits.types import Condition, Positions, Prompt, Site

PATCHED = "patched"
FEWEST = 3


@dataclass(frozen=True)
class Patching:
    """One emotion's test pairs: ``clean`` is the emotional text, ``donor`` the neutral twin that is patched."""

    bench: Bench
    subject: Subject
    heads: tuple[Head, ...]
    mode: str
    at: str

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The test pairs that can be patched: of equal length for patterns, with an emotion word where it is read."""
        lm, found = self.bench.context.lm, list(self.subject.testing)
        if self.at == "emotion-word":
            found = [p for p in found if p.clean.spans]
        if self.mode == "pattern_v":
            found = length_matched(lm, found) if found else []
        if len(found) < FEWEST:
            raise UsageError(
                f"{len(found)} test pairs of {self.subject.emotion} can be patched with {self.mode} at {self.at}",
                "raise --limit, use a larger matched set, or --patch-mode result --position last",
            )
        return tuple(found)

    def condition(self, pair: Pair, heads: Sequence[Head], name: str) -> Condition:
        """The heads' output (or values) in the emotional text, put into the twin."""
        if self.mode == "pattern_v":
            return self._values(pair, heads, name)
        read, write = self._places(pair)
        kind: Any = "result" if self.mode == "result" else "v_only"
        return transplant(self.bench.context.lm, name, heads, pair.clean, mode=kind, read=read, write=write)

    def _values(self, pair: Pair, heads: Sequence[Head], name: str) -> Condition:
        """The heads' values at every token: what the patterns of the emotional text look at."""
        lm, everywhere = self.bench.context.lm, Positions("all")
        layers, group = sorted({h.layer for h in heads}), lm.n_heads // lm.n_kv_heads
        values = capture(lm, [pair.clean], ["v"], [everywhere], layers=layers).get("v", everywhere)
        places = dict.fromkeys((h.layer, h.index // group) for h in heads)  # heads that share their values: once
        edits = [
            resample_ablation(Site("v", layer, i), values[:, layers.index(layer), i], Positions("prompt"))
            for layer, i in places
        ]
        return Condition(name, tuple(edits))

    def _places(self, pair: Pair) -> tuple[Positions, Positions]:
        """Where it is read and written; the twin's token at the relative place of the emotion word."""
        last = Positions("last")
        if self.at == "last":
            return last, last
        read = Positions("emotion-word", "last")
        twin, text = self.bench.context.lm.encode([pair.donor, pair.clean])
        matched, key = align(twin, text), prompt_indices(text, read)[-1]
        places = [abs(matched[i] - key) for i in twin.content]
        return read, Positions("at", values=(places.index(min(places)),))

    def _routing(self, pair: Pair) -> AbstractContextManager[None]:
        if self.mode != "pattern_v":
            return nullcontext()
        return routed(self.bench.context.lm, pair.donor, pair.clean, self.heads)

    def write(self, step: str, prompt: Prompt, sampling: Sampling) -> list[Generation]:
        """Continue one neutral text with the heads patched."""
        pair = next(p for p in self.pairs if p.donor.id == prompt.id)
        condition = self.condition(pair, self.heads, PATCHED)  # reads the emotional text: not inside the routing
        with self._routing(pair):
            return self.bench.context.measure.generate(step, [prompt], [condition], sampling)

    def endpoint(self, sets: int) -> dict[str, Any]:
        """Recovery m of the named heads and of random matched ones (none in ``pattern_v``: each would need its own
        pass with other patterns); in nats (``unit``) where emotional and neutral texts do not clearly differ."""
        seed, grid = self.bench.context.seed, Grid.of(self.bench.context.lm)
        random, slack = ([], 0) if self.mode == "pattern_v" else matched_sets(self.heads, grid, sets, seed)
        saved = self.bench.saved(f"patch-{self.subject.emotion}", lambda: self._scores(random))
        clean, neutral, patched = saved["clean"], saved["neutral"], saved["patched"]
        nats = patched.T - neutral  # [set, pair], the named heads first
        means, clusters = nats.mean(1), [p.cluster for p in self.pairs]
        resamples = self.bench.params.resamples
        beaten = int((means[0] > means[1:]).sum())
        change = bootstrap_interval(nats[0], clusters, resamples=resamples, seed=seed)
        unit, found, gap = "share", change, clean - neutral
        try:
            if gap.mean() <= 0:
                raise UnclearDenominatorError("the emotional texts are no higher on the endpoint than their twins")
            found = ratio_interval(nats[:1], gap[None], clusters, resamples=resamples, seed=seed)
        except UnclearDenominatorError:  # nothing to be a share of: the change itself is kept
            unit = "nats"
        scale = float(gap.mean()) if unit == "share" else 1.0
        low, high = (float(np.ravel(limit)[0]) for limit in (found.low, found.high))
        return {
            "emotion": self.subject.emotion, "mode": self.mode, "unit": unit, "change": float(means[0]) / scale,
            "pairs": len(self.pairs), "ci": [low, high], "gap": float(gap.mean()),
            "random": (means[1:] / scale).tolist(), "sets": len(random), "beaten": beaten,
            "random_mean": float(means[1:].mean()) / scale if len(random) else None, "layer_slack": slack,
            "p": float(permutation_p(means[0], means[1:], "greater")) if len(random) else None,
            "confirmed": bool(beats_random(beaten, len(random)) and low > 0),
        }  # fmt: skip

    def _scores(self, random: Sequence[Sequence[Head]]) -> dict[str, NDArray[np.float64]]:
        """``clean`` and ``neutral`` ``[pair]``, ``patched`` ``[pair, set]`` with the named heads first."""
        lm, endpoint = self.bench.context.lm, self.subject.metric
        clean = score(lm, [p.clean for p in self.pairs], [Condition("clean")], [endpoint])[:, 0, 0]
        neutral = score(lm, [p.donor for p in self.pairs], [Condition("neutral")], [endpoint])[:, 0, 0]
        patched = np.empty((len(self.pairs), 1 + len(random)))
        for i, pair in enumerate(self.pairs):
            conditions = self._conditions(pair, [self.heads, *random])
            with self._routing(pair):
                patched[i] = score(lm, [pair.donor], conditions, [endpoint])[0, :, 0]
        return {"clean": clean.astype(np.float64), "neutral": neutral.astype(np.float64), "patched": patched}

    def _conditions(self, pair: Pair, sets: Sequence[Sequence[Head]]) -> list[Condition]:
        """One condition a set; the emotional text is read once for all of them."""
        every = sorted({h for s in sets for h in s})
        parts = {i.site: i for i in self.condition(pair, every, "all").interventions}
        lm = self.bench.context.lm
        group = 1 if self.mode == "result" else lm.n_heads // lm.n_kv_heads
        places = {(site.layer, site.index): part for site, part in parts.items()}
        chosen = [dict.fromkeys((h.layer, h.index // group) for h in s) for s in sets]
        return [Condition(str(n), tuple(places[p] for p in c)) for n, c in enumerate(chosen)]
