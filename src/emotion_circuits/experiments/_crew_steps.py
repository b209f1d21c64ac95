"""The three things that a run asks of a model, computed by a crew: activations, scores, texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._crew import PARTS, Block, Crew, crew_folder, plan_blocks, share
from emotion_circuits.store import PartSet, read_tables, write_table
from emotion_circuits.store.tables import SUFFIX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.engine import Generation, Row
    from emotion_circuits.engine.capture import CapturePlan
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run

SCORED_ROWS, WRITTEN_ROWS, CAPTURED_ROWS = 1024, 64, 64
"""Rows of a block at least: a block costs a claim and a file, and a kill costs a block."""

Advance = Callable[[int], None]


def share_scores(
    crew: Crew,
    run: Run,
    name: str,
    rows: Sequence[Row],
    batches: Sequence[Sequence[int]],
    metrics: Sequence[str],
    score: Callable[[Sequence[Sequence[int]]], Any],
    advance: Advance,
) -> dict[str, NDArray[np.float32]]:
    """``{metric: [row]}``; ``score`` yields (row numbers, values ``[row, metric]``) of batches."""
    import numpy as np

    folder = crew_folder(run) / name
    parts = folder / PARTS
    blocks = plan_blocks(_names(rows), batches, SCORED_ROWS)

    def compute(block: Block) -> None:
        found = list(score(block.batches))
        values = np.concatenate([v for _, v in found])
        columns: dict[str, Any] = {"row": np.concatenate([np.asarray(n, np.int64) for n, _ in found])}
        columns |= {f"m{column}": values[:, column] for column in range(len(metrics))}
        crew.require_folder()
        write_table(parts / f"{block.name}{SUFFIX}", columns)

    share(crew, folder, blocks, lambda b: (parts / f"{b.name}{SUFFIX}").exists(), compute, lambda: run.done, advance)
    table = read_tables(parts, [b.name for b in blocks])
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    return {m: table[f"m{column}"].to_numpy()[order].astype(np.float32) for column, m in enumerate(metrics)}


def share_texts(
    crew: Crew,
    run: Run,
    name: str,
    rows: Sequence[Row],
    batches: Sequence[Sequence[int]],
    write: Callable[[Sequence[int]], Sequence[Generation]],
    advance: Advance,
) -> list[Generation]:
    """The text of every row; ``write`` computes those of one batch, in its order."""
    from emotion_circuits.engine import Generation

    folder = crew_folder(run) / name
    parts = folder / PARTS
    blocks = plan_blocks(_names(rows), batches, WRITTEN_ROWS)

    def compute(block: Block) -> None:
        numbers = [n for batch in block.batches for n in batch]
        found = [g for batch in block.batches for g in write(batch)]
        crew.require_folder()
        write_table(
            parts / f"{block.name}{SUFFIX}",
            {"row": numbers, "tokens": [list(g.tokens) for g in found], "text": [g.text for g in found],
             "stopped": [g.stopped for g in found]},
        )  # fmt: skip

    share(crew, folder, blocks, lambda b: (parts / f"{b.name}{SUFFIX}").exists(), compute, lambda: run.done, advance)
    texts: dict[int, Generation] = {}
    for block in blocks:  # a part at a time: texts as Python objects are large
        for line in read_tables(parts, [block.name]).to_pylist():
            row = rows[line["row"]]
            texts[line["row"]] = Generation(row.encoded.prompt.id, row.condition.name, tuple(line["tokens"]),
                                            line["text"], line["stopped"], row.sample)  # fmt: skip
    return [texts[n] for n in range(len(rows))]


def share_capture(
    crew: Crew,
    lm: LM,
    run: Run,
    name: str,
    plan: CapturePlan,
    max_rows: int,
    advance: Advance,
    fill: Callable[[Any, Any], int],
    halved: Callable[[], None],
) -> Callable[[Any, Any], None]:
    """Capture a plan together; the function returned writes the values to the two sinks, part after part.

    ``fill`` gives two sinks whatever need not be computed; ``halved`` is called where memory runs out.
    """  # fmt: skip
    import numpy as np

    from emotion_circuits.engine.capture import capture_batches, run_capture, split_shapes

    folder = crew_folder(run) / name
    parts = PartSet(folder / PARTS)
    names = [f"{n}:{e.prompt.id}" for n, e in enumerate(plan.encoded)]
    blocks = plan_blocks(names, capture_batches(lm, plan, max_rows), CAPTURED_ROWS)

    def compute(block: Block) -> None:
        rows = [row for batch in block.batches for row in batch]
        sinks = [_OnlyRows(keep, shapes) if shapes else None
                 for keep, shapes in zip(_kept(plan, rows), split_shapes(plan), strict=True)]  # fmt: skip
        fill(sinks[0], sinks[1])
        for _ in run_capture(lm, plan, sinks[0], sinks[1], max_rows=max_rows, halved=halved):
            pass
        crew.require_folder()
        parts.write(block.name, {k: v for sink in sinks if sink for k, v in sink.arrays.items()})

    share(crew, folder, blocks, lambda b: parts.has(b.name), compute, lambda: run.done, advance)

    def merge(by_prompt: Any, by_token: Any) -> None:
        for block in blocks:
            arrays = parts.arrays(block.name)
            rows = [row for batch in block.batches for row in batch]
            for sink, kept, shapes in zip((by_prompt, by_token), _kept(plan, rows), split_shapes(plan), strict=True):
                if sink is None:
                    continue
                for tensor in shapes:
                    sink.write_rows(tensor, kept, np.ascontiguousarray(arrays[tensor]))
                sink.finish_rows(kept)

    return merge


class _OnlyRows:
    """A sink that misses, and keeps, some rows only; ``arrays`` are in the order of ``rows``."""

    def __init__(self, rows: NDArray[np.intp], shapes: Mapping[str, tuple[int, ...]]) -> None:
        import numpy as np

        self._place = {int(row): n for n, row in enumerate(rows)}
        self._missing = np.ones(len(rows), dtype=bool)
        self._rows = rows
        self.arrays = {name: np.zeros((len(rows), *shape[1:]), np.float32) for name, shape in shapes.items()}

    def missing_rows(self) -> NDArray[np.intp]:
        return self._rows[self._missing]

    def write_rows(self, name: str, rows: Any, values: NDArray[np.float32]) -> None:
        self.arrays[name][[self._place[int(row)] for row in rows]] = values

    def finish_rows(self, rows: Any) -> None:
        self._missing[[self._place[int(row)] for row in rows]] = False


def _kept(plan: CapturePlan, rows: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of the tensors with a row a prompt, and of those with a row a token."""
    import numpy as np

    tokens = [np.arange(*plan.token_starts[r : r + 2]) for r in rows]
    return np.asarray(rows, np.intp), np.concatenate(tokens).astype(np.intp)


def _names(rows: Sequence[Row]) -> list[str]:
    """What each row is, on any machine. The edits are not part of it: their last bits may depend on the machine."""
    return [f"{r.encoded.prompt.id}|{r.condition.name}|{r.sample}" for r in rows]
