"""Interventions of many packed rows, compiled to one tensor operation per tap.

Every row of a batch is a (prompt, condition) pair with edits of its own. Rows that edit the same tap with the same
operation form a group; a group reads its rows, computes in float32, and writes back only where the row's positions say
so, which leaves every other activation bit-equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emotion_circuits.engine.batching import Batch
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.engine.taps import Tap, check_site, tap
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import Condition, Intervention, Site

_COVERS_GENERATED = ("all", "generated", "onward")


@dataclass
class Clock:
    """What the decode loop publishes to its hooks: ``step`` 0 is the prompt, step t reads the t-th generated token."""

    step: int = 0


@dataclass
class _Group:
    """Rows that edit one tap with one operation. ``index`` is the head or neuron of each row, None for whole sites."""

    op: str
    rows: Int[Tensor, " n"]
    index: Int[Tensor, " n"] | None
    vectors: Float[Tensor, "n *width"] | None
    strengths: Float[Tensor, " n"]
    schedules: Float[Tensor, "n step"]
    prompt: Bool[Tensor, "n token"]
    generated: Bool[Tensor, " n"]

    def strength(self, step: int) -> Float[Tensor, " n"]:
        return self.strengths * self.schedules[:, min(step, self.schedules.shape[1] - 1)]

    def mask(self, step: int) -> Bool[Tensor, "n token"]:
        return self.prompt if step == 0 else self.generated.unsqueeze(1)


class Edits:
    """The compiled interventions of a batch; ``with edits.hooks():`` around its forward passes.

    Args:
        batch: left-padded rows. encoded, conditions: what each row is.
        clock: shared with the loop that runs the forward passes.

    Raises:
        UsageError: a site out of range, a vector of another width or from nowhere, positions that do not exist.
    """

    def __init__(
        self, lm: LM, batch: Batch, encoded: Sequence[Encoded], conditions: Sequence[Condition], clock: Clock
    ) -> None:
        self._clock = clock
        self._groups: dict[tuple[str, int], list[_Group]] = {}
        self._taps: dict[tuple[str, int], Tap] = {}
        width = batch.ids.shape[1]
        for (kind, layer, _), members in sorted(_members(lm, conditions).items(), key=lambda item: item[0][2]):
            key = (kind, layer)
            site_kind = members[0][1].site.kind
            self._taps.setdefault(key, tap(lm, site_kind, layer))
            for same in _split_by_operation(members):
                group = _compile(lm, same, batch, encoded, width)
                self._groups.setdefault(key, []).append(group)

    def hooks(self) -> Hooks:
        """Hooks for every tap that some row edits."""
        hooks = Hooks()
        for (kind, layer), t in self._taps.items():
            hooks.visit(t.module, t.side, f"L{layer}.{kind}", self._visitor((kind, layer)))
        return hooks

    def require_steps(self, steps: int) -> None:
        """Raise when a row's edit can never act: only generated tokens, and none of them is read in ``steps`` steps."""
        for (kind, layer), groups in self._groups.items():
            for group in groups:
                if steps < 2 and not bool(group.prompt.any(1).all()):
                    raise UsageError(
                        f"the edit of L{layer}.{kind} acts on generated tokens only, and none is read here",
                        "choose other positions (all, last, onward), or generate more tokens",
                    )

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which are renumbered in the order given (finished rows were dropped)."""
        new_number = {row: i for i, row in enumerate(rows)}
        for key, groups in self._groups.items():
            self._groups[key] = [kept for g in groups if (kept := _restrict(g, new_number)) is not None]

    def _visitor(self, key: tuple[str, int]):  # type: ignore[no-untyped-def]
        def visitor(x: Tensor) -> Tensor | None:
            step, edited = self._clock.step, None
            for group in self._groups[key]:
                mask = group.mask(step)
                if not bool(mask.any()):
                    continue
                if edited is None:
                    edited = x.clone()
                _apply(group, self._taps[key].view(edited), mask, group.strength(step))
            return edited

        return visitor


def _members(lm: LM, conditions: Sequence[Condition]) -> dict[tuple[str, int, int], list[tuple[int, Intervention]]]:
    """(row, intervention) by tap and by how many edits the row already made there (edits compose in order)."""
    members: dict[tuple[str, int, int], list[tuple[int, Intervention]]] = defaultdict(list)
    for row, condition in enumerate(conditions):
        seen: Counter[tuple[str, int]] = Counter()
        for intervention in condition.interventions:
            checked = _on_tap(lm, intervention)
            key = (checked.site.kind, checked.site.layer)
            members[(*key, seen[key])].append((row, checked))
            seen[key] += 1
    return members


def _on_tap(lm: LM, intervention: Intervention) -> Intervention:
    """The intervention with its site checked; zeroing or scaling a head's result is done on its z."""
    site = check_site(lm, intervention.site)
    if site.kind == "result" and intervention.op in ("zero", "scale"):
        site = Site("z", site.layer, site.index)
    if site.kind in ("result", "pattern"):
        raise UsageError(f"{site} cannot be edited with {intervention.op!r}", "edit the head's z instead")
    needs_vector = intervention.op in ("add", "set", "project_out")
    width = lm.width(site.kind)
    expected = width if site.index is None else width[1:]
    if needs_vector and (intervention.vector is None or tuple(intervention.vector.shape) != expected):
        got = "none" if intervention.vector is None else f"shape {tuple(intervention.vector.shape)}"
        raise UsageError(
            f"{site} of {lm.name} needs a vector of shape {expected} for {intervention.op!r}; got {got}",
            "use a direction that was extracted from this model at this site",
        )
    return Intervention(
        site, intervention.op, intervention.positions, intervention.vector, intervention.strength, intervention.schedule
    )


def _split_by_operation(members: list[tuple[int, Intervention]]) -> list[list[tuple[int, Intervention]]]:
    groups: dict[tuple[str, bool], list[tuple[int, Intervention]]] = defaultdict(list)
    for row, i in members:
        groups[(i.op, i.site.index is None)].append((row, i))
    return list(groups.values())


def _compile(
    lm: LM, members: list[tuple[int, Intervention]], batch: Batch, encoded: Sequence[Encoded], width: int
) -> _Group:
    edits = [i for _, i in members]
    prompt = torch.zeros(len(members), width, dtype=torch.bool)
    for n, (row, i) in enumerate(members):
        columns = [batch.starts[row] + c for c in prompt_indices(encoded[row], i.positions)]
        prompt[n, columns] = True
    steps = max(len(i.schedule) for i in edits)
    schedules = torch.tensor([[*i.schedule, *[i.schedule[-1]] * (steps - len(i.schedule))] for i in edits])
    vectors = None
    if edits[0].vector is not None:
        vectors = torch.stack([torch.as_tensor(i.vector, dtype=torch.float32) for i in edits])
    whole = edits[0].site.index is None
    return _Group(
        op=edits[0].op,
        rows=torch.tensor([row for row, _ in members]),
        index=None if whole else torch.tensor([i.site.index for i in edits]),
        vectors=vectors,
        strengths=torch.tensor([i.strength for i in edits], dtype=torch.float32),
        schedules=schedules.float(),
        prompt=prompt,
        generated=torch.tensor([i.positions.kind in _COVERS_GENERATED for i in edits]),
    )


def _restrict(group: _Group, new_number: dict[int, int]) -> _Group | None:
    kept = [n for n, row in enumerate(group.rows.tolist()) if row in new_number]
    if not kept:
        return None
    return _Group(
        op=group.op,
        rows=torch.tensor([new_number[int(group.rows[n])] for n in kept]),
        index=None if group.index is None else group.index[kept],
        vectors=None if group.vectors is None else group.vectors[kept],
        strengths=group.strengths[kept],
        schedules=group.schedules[kept],
        prompt=group.prompt[kept],
        generated=group.generated[kept],
    )


def _apply(group: _Group, view: Tensor, mask: Tensor, strength: Tensor) -> None:
    """Write the group's edit into ``view`` ``[row, token, …]`` where ``mask`` ``[n, token]`` is true."""
    device = view.device
    rows = group.rows.to(device)
    at = (rows,) if group.index is None else (rows, slice(None), group.index.to(device))
    x = view[at].float()
    trailing = (1,) * (x.ndim - 2)
    s = strength.to(device).view(-1, 1, *trailing)
    v = None if group.vectors is None else group.vectors.to(device).unsqueeze(1)
    new = _operate(group.op, x, v, s)
    view[at] = torch.where(mask.to(device).view(*mask.shape, *trailing), new, x).to(view.dtype)


def _operate(op: str, x: Tensor, v: Tensor | None, s: Tensor) -> Tensor:
    """``x`` ``[n, token, …]``, ``v`` ``[n, 1, …]``, ``s`` ``[n, 1, …]`` in float32."""
    if op == "zero":
        # As `set` to 0: exactly 0 at strength 1, untouched at strength 0 (a schedule can switch an ablation off).
        return torch.where(s == 1, torch.zeros_like(x), x * (1 - s))
    if op == "scale":
        return x * s
    assert v is not None
    if op == "add":
        return x + s * v
    if op == "set":
        # Exactly v at strength 1, part of the way otherwise.
        return torch.where(s == 1, v, x + s * (v - x))
    axes = tuple(range(2, v.ndim))  # none for a single neuron: its activation is the component
    unit = v / (v.square().sum(axes, keepdim=True) if axes else v.square()).sqrt().clamp_min(1e-12)
    along = (x * unit).sum(axes, keepdim=True) if axes else x * unit
    return x - s * along * unit
