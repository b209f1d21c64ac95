"""Which rows run together: the same rows always make the same batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from emotion_circuits.engine.decode import AnyRow
from emotion_circuits.engine.memory import automatic_rows
from emotion_circuits.engine.prefix import first_layer
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM


def plan_chunks(lm: LM, rows: Sequence[AnyRow], max_rows: int | None = None, *, new_tokens: int = 1) -> list[list[int]]:
    """Row numbers by batch: of like length, longest first (it shows the peak memory), rows of a prompt together.

    The plan depends on rows and ``max_rows`` only. A prompt with more rows than that gets batches of its own of equal
    size, its rows ordered by the lowest block they edit, because blocks below it run once a batch.

    Args:
        max_rows: rows of a batch at most; None chooses from free memory for ``new_tokens`` generated tokens.

    Raises:
        UsageError: ``max_rows`` below 1.
    """
    if max_rows is not None and max_rows < 1:
        raise UsageError(f"batches of {max_rows} rows hold nothing", "use --rows with 1 or more")
    if not rows:
        return []
    most = max_rows or automatic_rows(lm, max(len(r[0]) for r in rows), new_tokens)
    by_text: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        by_text.setdefault(row[0].ids, []).append(number)
    chunks: list[list[int]] = []
    open_chunk: list[int] = []
    for ids in sorted(by_text, key=lambda ids: (-len(ids), by_text[ids][0])):
        numbers = by_text[ids]
        if len(open_chunk) + len(numbers) > most and open_chunk:
            chunks.append(open_chunk)
            open_chunk = []
        if len(numbers) <= most:
            open_chunk = [*open_chunk, *numbers]
            continue
        ordered = sorted(numbers, key=lambda n: (first_layer(lm, rows[n][1]), n))
        pieces = -(-len(numbers) // most)
        size = -(-len(numbers) // pieces)
        chunks.extend(ordered[i : i + size] for i in range(0, len(ordered), size))
    if open_chunk:
        chunks.append(open_chunk)
    return chunks


def is_unedited(row: AnyRow) -> bool:
    """Whether a row has no edit, so that it can stand for its prompt's unedited row."""
    return not row[1].interventions


def scored_at_once(lm: LM, rows: Sequence[AnyRow], max_rows: int | None = None) -> int:
    """The ``max_rows`` of :func:`plan_chunks` with which a batch of scores holds no more than ``max_rows`` rows in all.

    A batch in which a prompt has rows, but not its unedited one, computes that one beside them; it takes as much memory
    as any other. One row and its prompt's are the least.

    Args:
        max_rows: None chooses from free memory.
    """
    longest = max((len(r[0]) for r in rows), default=1)
    most = automatic_rows(lm, longest, 1) if max_rows is None else max_rows
    of_prompt = Counter(r[0].ids for r in rows)
    own = {r[0].ids for r in rows if is_unedited(r)}
    without = [count for ids, count in of_prompt.items() if ids not in own]
    if most <= 1 or (not without and max(of_prompt.values(), default=0) <= most):
        return most
    # One prompt cut into several batches has one row more in each; whole prompts have one more each.
    least = min(without, default=most)
    return min(most - 1, most * least // (least + 1))
