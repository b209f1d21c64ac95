"""What an intervention did to the text as text: perplexity, repetition, diversity, length, and the joint damage gate.

Per continuation, tokens are those of the model that wrote it:

- ``log_perplexity``: mean negative log-probability (nats per token) of the continuation's tokens under the *unsteered*
  model, given the prompt; ``other_log_perplexity`` under a second model with its own tokens.
- ``rep4``: share of repeated 4-grams, 1 - (distinct 4-grams) / (4-grams) (seq-rep-4 of Welleck et al. 2020).
- ``distinct1``, ``distinct2``: distinct n-grams / n-grams (Li et al. 2016), within a text.
- ``tokens``, ``words``; ``empty``: 1 where nothing but white space was written.

A continuation of fewer than :data:`FEWEST_TOKENS` tokens has no 4-gram, and its perplexity is that of a word or two:
these four measures are NaN there, and the gate leaves such texts out of medians and means. Texts that say nothing show
in ``empty`` instead, and a gate that could judge fewer than half of an arm's texts does not pass.

A loop has a *low* perplexity ("2012. 2012. 2012."), so no measure stands alone: see :func:`damage_gate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.scorers._contract import Card, Continuation, LoadOptions, Scorer
from emotion_circuits.scorers._registry import scorer
from emotion_circuits.scorers.lexicon import count_words
from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from emotion_circuits.models.lm import LM, Encoded

FEWEST_TOKENS = 4
"""Fewer tokens than this have no 4-gram: not judged."""
MOST_ROWS = 64
"""Texts per forward pass, where their logits leave room for so many."""
_LOGITS = 1 << 26
"""Numbers in one batch of logits (256 MB in float32)."""

Columns = Mapping[str, "Float[np.ndarray, ' text']"]


def fluency(
    lm: LM,
    continuations: Sequence[tuple[Prompt, Sequence[int]]],
    texts: Sequence[str] | None = None,
    *,
    other: LM | None = None,
    max_rows: int = MOST_ROWS,
) -> dict[str, Float[np.ndarray, " text"]]:
    """Every measure of the module's docstring, one float64 array ``[text]`` each.

    Args:
        lm: the model without any intervention; ``continuations`` are in its tokens.
        continuations: (prompt, token ids that were written after it) of each text.
        texts: the decoded continuations (decoded here when left out).
        other: a second model for ``other_log_perplexity``; it reads prompt and continuation as text.
        max_rows: most rows of one forward pass.

    Raises:
        UsageError: ``texts`` of another number, or prompt and continuation are longer than a model has positions.
    """
    written = [tuple(map(int, tokens)) for _, tokens in continuations]
    if texts is None:
        texts = [str(lm.tokenizer.decode(list(tokens), skip_special_tokens=True)) for tokens in written]
    if len(texts) != len(written):
        raise UsageError(f"{len(texts)} texts for {len(written)} continuations", "give one text per continuation")
    prompts = [prompt for prompt, _ in continuations]
    columns = {
        "log_perplexity": _log_perplexity(lm, list(_appended(lm, prompts, written)), max_rows),
        "rep4": [repetition(tokens) for tokens in written],
        "distinct1": [distinct(tokens, 1) for tokens in written],
        "distinct2": [distinct(tokens, 2) for tokens in written],
        "tokens": [len(tokens) for tokens in written],
        "words": [count_words(text) for text in texts],
        "empty": [not text.strip() for text in texts],
    }
    if other is not None:
        columns["other_log_perplexity"] = _log_perplexity(other, list(_reread(other, prompts, texts)), max_rows)
    return {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}


@scorer("fluency:", "Perplexity under a language model, repetition, diversity and length: fluency:MODEL.")
class FluencyScorer(Scorer):
    """The measures of :func:`fluency` in the tokens of any model, for texts that it need not have written.

    Perplexity is that of the text behind its prompt, or behind nothing but the model's prefix token. Texts of fewer
    than :data:`FEWEST_TOKENS` tokens have NaN for all but ``tokens`` and ``words``.
    """

    columns = ("log_perplexity", "rep4", "distinct1", "distinct2", "tokens", "words")

    def __init__(self, lm: LM, rows: int | None = None) -> None:
        self._lm, self._rows = lm, rows or MOST_ROWS

    @classmethod
    def members(cls) -> dict[str, str]:
        return {"fluency:MODEL": "perplexity under any language model, repetition, diversity, length"}

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        """``target`` is any source of a language model: an alias, a hub id, a folder or a GGUF file."""
        from emotion_circuits.models import load_lm

        lm = load_lm(
            target, device=options.device, cache=options.cache, offline=options.offline, revision=options.revision
        )
        return cls(lm, options.rows)

    def score(self, texts: Sequence[Continuation]) -> dict[str, Float[np.ndarray, " text"]]:
        """One float64 array ``[text]`` per column; NaN where a text is too short to be judged."""
        present = [i for i, t in enumerate(texts) if t.text.strip()]
        behind = [i for i in present if texts[i].prompt]
        alone = [i for i in present if not texts[i].prompt]
        rows = dict(zip(alone, _read_alone(self._lm, [texts[i].text for i in alone]), strict=True))
        prompts = [Prompt(str(i), texts[i].prompt) for i in behind]
        rows |= zip(behind, _reread(self._lm, prompts, [texts[i].text for i in behind]), strict=True)
        tokens = {i: row.encoded.ids[len(row.encoded.ids) - row.n_new :] for i, row in rows.items()}
        perplexity = _log_perplexity(self._lm, [rows[i] for i in present], self._rows)
        found = {column: np.full(len(texts), np.nan) for column in self.columns}
        found["log_perplexity"][present] = perplexity
        for i, text in enumerate(texts):
            own = tokens.get(i, ())
            found["rep4"][i], found["tokens"][i], found["words"][i] = repetition(own), len(own), count_words(text.text)
            found["distinct1"][i], found["distinct2"][i] = distinct(own, 1), distinct(own, 2)
        return found

    def card(self) -> Card:
        return Card(
            name="fluency",
            what="mean negative log-probability per token (nats), share of repeated 4-grams, distinct n-grams, length",
            data="the model's own training; no labels",
            licence="the model's own",
            scope="any language the model reads. A loop has a low perplexity: no column stands alone.",
            calibration="none: surprise of this model, in its own tokens; not comparable between models",
            revision=f"{self._lm.name}, weights {self._lm.fingerprint[:12]}",
            labels=self.columns,
        )


def rows_at_once(lm: LM, n_new: int, max_rows: int = MOST_ROWS) -> int:
    """Texts of ``n_new`` tokens that one forward pass reads: their logits are what takes memory."""
    return max(1, min(max_rows, _LOGITS // ((n_new + 1) * lm.vocabulary_size)))


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that occurred before in the text; NaN below :data:`FEWEST_TOKENS` tokens."""
    return 1 - distinct(tokens, n)


def distinct(tokens: Sequence[int], n: int) -> float:
    """Distinct n-grams / n-grams; NaN below :data:`FEWEST_TOKENS` tokens."""
    if len(tokens) < max(FEWEST_TOKENS, n):
        return math.nan
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams)


@dataclass(frozen=True)
class Damage:
    """An arm's texts against the baseline's; ``ok`` is the joint gate of :func:`damage_gate`.

    ``median_ppl_ratio`` = exp(median log-perplexity of the arm - that of the baseline); ``rep4`` and ``empty`` are the
    arm's means, ``*_baseline`` the baseline's; ``distinct2_ratio`` is arm / baseline; ``judged`` is the share of the
    arm's texts that are long enough to judge. A figure that no text supports is NaN, and then ``ok`` is False.
    """

    median_ppl_ratio: float
    rep4: float
    rep4_baseline: float
    distinct2_ratio: float
    empty: float
    empty_baseline: float
    judged: float
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


PPL_RATIO = (0.5, 2.5)
REP4_RISE = 0.10
DISTINCT2_RATIO = 0.7
EMPTY_RISE = 0.02
FEWEST_JUDGED = 0.5


def damage_gate(baseline: Columns, arm: Columns) -> Damage:
    """The joint gate on sampled continuations, from the columns of :func:`fluency` of both arms (any numbers of texts).

    Passes when the ratio of median perplexities is within [.5, 2.5], rep-4 ≤ baseline + .10, distinct-2 ≥ .7 ×
    baseline, the empty share ≤ baseline + .02, and at least half of the arm's texts are long enough to be judged.

    Raises:
        UsageError: an arm without texts, or without one of the columns ``log_perplexity rep4 distinct2 empty``.
    """
    for name, columns in (("baseline", baseline), ("arm", arm)):
        missing = [c for c in ("log_perplexity", "rep4", "distinct2", "empty") if c not in columns]
        if missing or not len(columns["empty"]):
            raise UsageError(
                f"the {name} has no {' and no '.join(missing) or 'texts'}", "give the columns that fluency() returned"
            )
    base, changed = _judged(baseline), _judged(arm)
    difference = _median(changed["log_perplexity"]) - _median(base["log_perplexity"])
    ratio = math.exp(min(difference, 700.0))
    rep4, rep4_baseline = _mean(changed["rep4"]), _mean(base["rep4"])
    spread = _mean(base["distinct2"])
    distinct2_ratio = _mean(changed["distinct2"]) / spread if spread > 0 else math.nan
    empty, empty_baseline = float(np.mean(arm["empty"])), float(np.mean(baseline["empty"]))
    judged = len(changed["rep4"]) / len(arm["empty"])
    # A comparison with NaN is False, so a figure that no text supports closes the gate.
    ok = (
        PPL_RATIO[0] <= ratio <= PPL_RATIO[1]
        and rep4 <= rep4_baseline + REP4_RISE
        and distinct2_ratio >= DISTINCT2_RATIO
        and empty <= empty_baseline + EMPTY_RISE
        and judged >= FEWEST_JUDGED
    )
    return Damage(ratio, rep4, rep4_baseline, distinct2_ratio, empty, empty_baseline, judged, ok)


def damage_pass_rate(
    baseline: Columns, arm: Columns, units: Sequence[int] | Int[np.ndarray, " text"], *, resamples: int = 200,
    seed: int = 0,
) -> float:  # fmt: skip
    """Share of bootstrap resamples of prompts in which :func:`damage_gate` passes: will it pass on other prompts too?

    Of many cells, the strongest one that just passes on a few texts is likely to fail on new ones; choosing among cells
    with a high pass rate avoids that.

    Args:
        units: ``[text]`` the prompt of every text, in the same order for both arms; prompts are drawn whole.

    Raises:
        UsageError: arms of different length, another number of units, or what :func:`damage_gate` refuses.
    """
    codes = np.unique(np.asarray(units), return_inverse=True)[1]
    lengths = {len(codes), *(len(columns.get("empty", ())) for columns in (baseline, arm))}
    if len(lengths) > 1:
        raise UsageError(
            f"the arms and their units have different lengths: {sorted(lengths)}",
            "give the same prompts and samples for both arms, and the prompt of every text as units",
        )
    groups = [np.flatnonzero(codes == unit) for unit in range(int(codes.max()) + 1)]
    rng = np.random.default_rng(seed)
    passed = 0
    for draw in rng.integers(0, len(groups), (resamples, len(groups))):
        rows = np.concatenate([groups[i] for i in draw])
        drawn = [{name: np.asarray(values)[rows] for name, values in columns.items()} for columns in (baseline, arm)]
        passed += damage_gate(*drawn).ok
    return passed / resamples


def _judged(columns: Columns) -> dict[str, Float[np.ndarray, " text"]]:
    """The measures of texts that have all of them."""
    names = ("log_perplexity", "rep4", "distinct2")
    values = {name: np.asarray(columns[name], dtype=np.float64) for name in names}
    usable = np.all([np.isfinite(v) for v in values.values()], axis=0)
    return {name: v[usable] for name, v in values.items()}


def _median(values: Float[np.ndarray, " text"]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _mean(values: Float[np.ndarray, " text"]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@dataclass(frozen=True)
class _Row:
    """Prompt and continuation as one sequence; the last ``n_new`` tokens are the continuation's."""

    encoded: Encoded
    n_new: int


def _appended(lm: LM, prompts: Sequence[Prompt], written: Sequence[tuple[int, ...]]) -> Iterator[_Row]:
    """The very tokens that the model wrote, behind the prompt's (text could be split into others)."""
    for encoded, tokens in zip(lm.encode(prompts), written, strict=True):
        ids = (*encoded.ids, *tokens)
        yield _Row(replace(encoded, ids=ids, offsets=(*encoded.offsets, *([(0, 0)] * len(tokens)))), len(tokens))


def _reread(lm: LM, prompts: Sequence[Prompt], texts: Sequence[str]) -> Iterator[_Row]:
    """Prompt and continuation as another model's tokens; its continuation starts where the prompt's tokens end."""
    joined = [replace(p, text=p.text + text, spans=()) for p, text in zip(prompts, texts, strict=True)]
    for before, encoded in zip(lm.encode(prompts), lm.encode(joined), strict=True):
        shared = next(
            (i for i, (a, b) in enumerate(zip(before.ids, encoded.ids, strict=False)) if a != b), len(before.ids)
        )
        yield _Row(encoded, len(encoded.ids) - max(shared, encoded.n_prefix + 1))


def _read_alone(lm: LM, texts: Sequence[str]) -> Iterator[_Row]:
    """Texts without a prompt; a first token that nothing stands in front of has no probability."""
    for encoded in lm.encode([Prompt(str(i), text) for i, text in enumerate(texts)]):
        yield _Row(encoded, len(encoded.ids) - max(encoded.n_prefix, 1))


def _log_perplexity(lm: LM, rows: Sequence[_Row], max_rows: int) -> Float[np.ndarray, " text"]:
    """Mean negative log-probability of each row's continuation, in nats per token; NaN where it is too short."""

    from emotion_circuits.engine.batching import length_buckets, pad
    from emotion_circuits.engine.memory import run_chunks
    from emotion_circuits.models.products import inference

    found = np.full(len(rows), np.nan)
    long_enough = [i for i, row in enumerate(rows) if row.n_new >= FEWEST_TOKENS]
    for i in long_enough:
        if len(rows[i].encoded) > lm.max_length:
            raise UsageError(
                f"prompt {rows[i].encoded.prompt.id!r} and its continuation have {len(rows[i].encoded)} tokens; "
                f"{lm.name} has positions for {lm.max_length}",
                "shorten the prompt or generate fewer tokens",
            )
    at_once = rows_at_once(lm, max((rows[i].n_new for i in long_enough), default=0), max_rows)

    def run(numbers: Sequence[int]) -> list[float]:
        batch = pad(lm, [rows[i].encoded for i in numbers], numbers, "left")
        kept = max(rows[i].n_new for i in numbers) + 1
        with inference(lm.model):
            logits = lm.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
                logits_to_keep=kept,
            ).logits[:, :-1].float()  # fmt: skip
            # Logits at t speak about the token at t + 1: the first kept position predicts the first new token.
            targets = batch.ids[:, -(kept - 1) :].to(logits.device)
            chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            surprise = (logits.logsumexp(-1) - chosen).double().cpu().numpy()
        return [float(surprise[row, -rows[i].n_new :].mean()) for row, i in enumerate(numbers)]

    buckets = length_buckets([rows[i].encoded for i in long_enough], at_once, max_tokens=1 << 30)
    for numbers, values in run_chunks([[long_enough[b] for b in bucket] for bucket in buckets], run):
        found[numbers] = values
    return found
