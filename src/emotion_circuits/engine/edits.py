"""Interventions of many packed rows, compiled to one tensor operation per tap.

Every row of a batch is a (prompt, condition) pair with edits of its own. Rows that edit the same tap with the same
operation form a group; a group reads its rows, computes in float32, and writes back only where the row's positions say
so and the strength of this step changes something, which leaves every other activation bit-equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emotion_circuits.engine.batching import Batch
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.operations import acts, changes_something, operate
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.engine.taps import Tap, check_site, tap
from emotion_circuits.errors import ContractError, UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import Condition, Intervention, Site

if TYPE_CHECKING:
    from emotion_circuits.types import FloatArray

COVERS_GENERATED = ("all", "generated", "onward")
"""Positions that go on after the prompt."""

Member = tuple[int, Intervention]
"""A row of the batch and one of its interventions, checked against the model."""


@dataclass
class Clock:
    """What the decode loop publishes to its hooks: ``step`` 0 is the prompt, step t reads the t-th generated token."""

    step: int = 0


@dataclass
class _Group:
    """Rows that edit one tap with one operation, on the CPU, where each step decides what acts.

    ``index`` is the head or neuron of each row, None for whole sites. ``vectors`` is ``[n, *width]``, or with ``slots``
    ``[n, place, *width]``, where ``slots`` says which place a prompt token takes. What an edit computes with is copied
    to the activation's device once (:meth:`on`) and stays there: a copy at every step would make the host wait for the
    accelerator in the middle of each pass.
    """

    op: str
    rows: Int[Tensor, " n"]
    index: Int[Tensor, " n"] | None
    vectors: Float[Tensor, " n *width"] | None
    slots: Int[Tensor, "n token"] | None
    strengths: Float[Tensor, " n"]
    schedules: Float[Tensor, "n step"]
    prompt: Bool[Tensor, "n token"]
    generated: Bool[Tensor, " n"]
    _copies: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _final: Tensor | None = field(default=None, init=False, repr=False)

    def on(self, device: torch.device, name: str, value: Tensor) -> Tensor:
        """``value`` on ``device``; the copy called ``name`` is made again only for another tensor or device."""
        if value.device == device:
            return value
        source, copy = self._copies.get(name, (None, None))
        if copy is None or copy.device != device or source is not value:
            copy = value.to(device)
            self._copies[name] = (value, copy)
        return copy

    def strength(self, step: int) -> Float[Tensor, " n"]:
        """The factor of every row at a step; the same tensor once the schedule no longer changes."""
        last = self.schedules.shape[1] - 1
        if step < last:
            return self.strengths * self.schedules[:, step]
        if self._final is None:
            self._final = self.strengths * self.schedules[:, last]
        return self._final

    def select(self, kept: Tensor, rows: Tensor) -> _Group:
        """The members ``kept``, at other rows of the batch."""

        def of(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[kept]

        return _Group(
            self.op, rows, of(self.index), of(self.vectors), of(self.slots), self.strengths[kept],
            self.schedules[kept], self.prompt[kept], self.generated[kept],
        )  # fmt: skip


class Edits:
    """The compiled interventions of a batch; ``with edits.hooks():`` around its forward passes.

    Args:
        batch: left-padded rows. encoded, conditions: what each row is.
        clock: shared with the loop that runs the forward passes.
        start: column of the batch at which the first forward pass begins (tokens before it are shared and unedited).

    Raises:
        UsageError: a site out of range, a vector of another width, from nowhere or with NaN, positions that do not
            exist.
    """

    def __init__(
        self,
        lm: LM,
        batch: Batch,
        encoded: Sequence[Encoded],
        conditions: Sequence[Condition],
        clock: Clock,
        start: int = 0,
    ) -> None:
        self._clock = clock
        self._groups: dict[tuple[str, int], list[_Group]] = {}
        self._taps: dict[tuple[str, int], Tap] = {}
        self._generated_only: str | None = None
        for (kind, layer, _), members in sorted(self._members(lm, encoded, conditions).items(), key=lambda m: m[0][2]):
            key = (kind, layer)
            self._taps.setdefault(key, tap(lm, members[0][1].site.kind, layer))
            for (_, _, by_token), same in _split_by_operation(lm, members).items():
                self._groups.setdefault(key, []).append(_compile(same, by_token, batch, encoded, start))

    def _members(
        self, lm: LM, encoded: Sequence[Encoded], conditions: Sequence[Condition]
    ) -> dict[tuple[str, int, int], list[Member]]:
        """Members by tap and by how many edits their row already made there (edits of a row compose in order)."""
        members: dict[tuple[str, int, int], list[Member]] = defaultdict(list)
        for row, condition in enumerate(conditions):
            seen: Counter[tuple[str, int]] = Counter()
            for intervention in condition.interventions:
                i = check_intervention(lm, intervention)
                if not prompt_indices(encoded[row], i.positions):
                    self._generated_only = str(i.site)
                if not changes_something(i):
                    continue  # so that strength 0 is bit-equal to no edit: nothing is computed, nothing written
                key = (i.site.kind, i.site.layer)
                members[(*key, seen[key])].append((row, i))
                seen[key] += 1
        return members

    def hooks(self) -> Hooks:
        """Hooks for every tap that some row edits."""
        hooks = Hooks()
        for (kind, layer), t in self._taps.items():
            hooks.visit(t.module, t.side, f"L{layer}.{kind}", self._visitor((kind, layer)))
        return hooks

    def require_steps(self, steps: int) -> None:
        """Raise when a row's edit can never act: only generated tokens, and none of them is read in ``steps`` steps."""
        if steps < 2 and self._generated_only is not None:
            raise UsageError(
                f"the edit of {self._generated_only} acts on generated tokens only, and none is read here",
                "choose other positions (all, last, onward), or generate more tokens",
            )

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which are renumbered in the order given (finished rows were dropped)."""
        new_number = {row: i for i, row in enumerate(rows)}
        for key, groups in self._groups.items():
            kept_groups = []
            for group in groups:
                kept = [n for n, row in enumerate(group.rows.tolist()) if row in new_number]
                if kept:
                    renumbered = torch.tensor([new_number[int(group.rows[n])] for n in kept])
                    kept_groups.append(group.select(torch.tensor(kept), renumbered))
            self._groups[key] = kept_groups

    def _visitor(self, key: tuple[str, int]) -> Callable[[Tensor], Tensor | None]:
        def visitor(x: Tensor) -> Tensor | None:
            edited = None
            for group in self._groups[key]:
                edited = _apply(group, self._taps[key], x, edited, self._clock.step)
            return edited

        return visitor


def check_intervention(lm: LM, intervention: Intervention) -> Intervention:
    """The intervention with its site checked; zeroing or scaling a head's result is done on its z."""
    site = check_site(lm, intervention.site)
    if site.kind == "result" and intervention.op in ("zero", "scale"):
        site = Site("z", site.layer, site.index)
    if site.kind in ("result", "pattern"):
        raise UsageError(f"{site} cannot be edited with {intervention.op!r}", "edit the head's z instead")
    if intervention.op in ("add", "set", "project_out"):
        _check_vector(lm, site, intervention)
    return Intervention(
        site, intervention.op, intervention.positions, intervention.vector, intervention.strength, intervention.schedule
    )


def _check_vector(lm: LM, site: Site, intervention: Intervention) -> None:
    expected = _width(lm, site)
    v = intervention.vector
    if v is None or v.shape[v.ndim - len(expected) :] != expected or v.ndim - len(expected) not in (0, 1):
        got = "none" if v is None else f"shape {tuple(v.shape)}"
        raise UsageError(
            f"{site} of {lm.name} needs a vector of shape {expected} for {intervention.op!r}; got {got}",
            "use a direction that was extracted from this model at this site",
        )
    if not np.isfinite(v).all():
        raise UsageError(
            f"the vector for {site} contains NaN or infinity", "check where it was computed; it would break every text"
        )
    if v.ndim > len(expected) and intervention.positions.kind in COVERS_GENERATED:
        raise UsageError(
            f"{site}: one value a prompt position cannot act on generated tokens, but positions "
            f"{intervention.positions} cover them",
            "choose positions of the prompt only (prompt, last, window:3, at:0,2, …), or give one vector",
        )


def _width(lm: LM, site: Site) -> tuple[int, ...]:
    width = lm.width(site.kind)
    return width if site.index is None else width[1:]


def _split_by_operation(lm: LM, members: list[Member]) -> dict[tuple[str, bool, bool], list[Member]]:
    """Members by operation, by whether they edit the whole site, and by whether they hold one value a position."""
    groups: dict[tuple[str, bool, bool], list[Member]] = defaultdict(list)
    for row, i in members:
        by_token = i.vector is not None and i.vector.ndim > len(_width(lm, i.site))
        groups[(i.op, i.site.index is None, by_token)].append((row, i))
    return groups


def _compile(members: list[Member], by_token: bool, batch: Batch, encoded: Sequence[Encoded], start: int) -> _Group:
    edits = [i for _, i in members]
    width = batch.ids.shape[1]
    prompt = torch.zeros(len(members), width, dtype=torch.bool)
    slots = torch.zeros(len(members), width, dtype=torch.long)
    for n, (row, i) in enumerate(members):
        columns = [batch.starts[row] + c for c in prompt_indices(encoded[row], i.positions)]
        if by_token and i.vector is not None and len(i.vector) != len(columns):
            raise UsageError(
                f"{i.site} has values for {len(i.vector)} positions, but {i.positions} names {len(columns)} in prompt "
                f"{encoded[row].prompt.id!r}",
                "give one row of values for each position, in order",
            )
        prompt[n, columns] = True
        slots[n, columns] = torch.arange(len(columns))
    if bool(prompt[:, :start].any()):
        raise ContractError(f"an edit of {edits[0].site} lies in the part of the prompt that rows share")
    steps = max(len(i.schedule) for i in edits)
    schedules = torch.tensor([[*i.schedule, *[i.schedule[-1]] * (steps - len(i.schedule))] for i in edits])
    return _Group(
        op=edits[0].op,
        rows=torch.tensor([row for row, _ in members]),
        index=None if edits[0].site.index is None else torch.tensor([i.site.index for i in edits]),
        vectors=_stack([i.vector for i in edits if i.vector is not None], by_token),
        slots=slots[:, start:] if by_token else None,
        strengths=torch.tensor([i.strength for i in edits], dtype=torch.float32),
        schedules=schedules.float(),
        prompt=prompt[:, start:],
        generated=torch.tensor([i.positions.kind in COVERS_GENERATED for i in edits]),
    )


def _stack(vectors: list[FloatArray], by_token: bool) -> Tensor | None:
    """``[n, *width]``, or ``[n, place, *width]`` with unused places 0."""
    if not vectors:
        return None
    values = [torch.as_tensor(np.asarray(v, np.float32)) for v in vectors]
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True) if by_token else torch.stack(values)


def _apply(group: _Group, t: Tap, x: Tensor, edited: Tensor | None, step: int) -> Tensor | None:
    """``x`` ``[row, token, …]`` with the group's edit of this step: in ``edited`` where an earlier group made one."""
    strength = group.strength(step)
    places = group.prompt if step == 0 else group.generated.unsqueeze(1)
    acting = (acts(group.op, strength) & places.any(1)).nonzero().flatten()
    if len(acting) == 0:
        return edited
    if len(acting) < len(group.rows):
        group, strength, places = group.select(acting, group.rows[acting]), strength[acting], places[acting]
    edited = x.clone() if edited is None else edited
    view, device = t.view(edited), x.device
    rows = group.on(device, "rows", group.rows)
    at = (rows,) if group.index is None else (rows, slice(None), group.on(device, "index", group.index))
    old = view[at].float()
    trailing = (1,) * (old.ndim - 2)
    factor = group.on(device, "strength", strength).view(-1, 1, *trailing)
    new = operate(group.op, old, _vectors(group, step, device), factor)
    if not bool(places.all()):
        new = torch.where(places.to(device).view(*places.shape, *trailing), new, old)
    view[at] = new.to(view.dtype)
    return edited


def _vectors(group: _Group, step: int, device: torch.device) -> Tensor | None:
    """``[n, 1 or token, *width]`` on the activation's device."""
    if group.vectors is None:
        return None
    if group.slots is None:
        return group.on(device, "vectors", group.vectors).unsqueeze(1)
    if step:
        raise ContractError("an edit with one value a position reached a generated token")
    members = torch.arange(len(group.slots)).unsqueeze(1)
    return group.vectors[members, group.slots].to(device)
