"""Ablation and transplants of heads and neurons as conditions: what generation and every scorer can run.

Rows of one batch may carry any of them (:mod:`emotion_circuits.engine`), combined with others through
:func:`combined`. Means and zeros go on acting on generated tokens; another text's activations have values for the
prompt's tokens only, so a resampled component works normally on what is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from emotion_circuits.circuits.components import MLP, Component, Head
from emotion_circuits.circuits.pairs import align
from emotion_circuits.circuits.substitution import MODES, Mode, tap_of
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.interventions import mean_ablation, resample_ablation, swap, zero
from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site

ALL = Positions("all")
PatchMode = Literal["result", "v_only"]
"""result: the head's output (its z); v_only: the values it reads (its key/value head's v), with the text's own pattern.
``pattern_v`` is v_only inside :func:`~emotion_circuits.circuits.routing.routed`."""
PATCH_MODES: tuple[PatchMode, ...] = get_args(PatchMode)


def site_of(component: Component) -> Site:
    """Where an intervention on the component acts."""
    kind, layer = tap_of(component)
    return Site(kind, layer, None if isinstance(component, MLP) else component.index)


def combined(name: str, *conditions: Condition) -> Condition:
    """One condition that does what all of them do (heads and neurons together, ablation and steering)."""
    return Condition(name, tuple(i for c in conditions for i in c.interventions))


def ablation(
    lm: LM,
    name: str,
    components: Sequence[Component],
    mode: Mode,
    *,
    prompt: Prompt | None = None,
    donors: Sequence[Prompt] = (),
) -> Condition:
    """Ablate components everywhere in a text.

    Args:
        mode: ``zero``; ``mean`` over the content tokens of ``donors``; ``resample`` from ``donors[0]`` at the tokens
            aligned with those of ``prompt`` (the condition then fits that prompt only).

    Raises:
        UsageError: no components, no donors where the mode needs them.
    """
    if mode not in MODES:
        raise unknown_name("ablation mode", mode, list(MODES))
    if not components:
        raise UsageError("no components to ablate", "name at least one head, MLP or neuron")
    if mode == "zero":
        return Condition(name, tuple(zero(site_of(c), ALL) for c in components))
    if not donors or (mode == "resample" and prompt is None):
        raise UsageError(f"{mode} ablation needs texts to take activations from", "give donors (and the prompt)")
    kinds = sorted({site_of(c).kind for c in components})
    layers = sorted({c.layer for c in components})
    where = Positions("mean-content") if mode == "mean" else ALL
    texts = donors if mode == "mean" else donors[:1]
    a = capture(lm, texts, kinds, [where], layers=layers)
    counts = np.array([len(e.content) for e in lm.encode(texts)], dtype=np.float64)
    if mode == "resample":
        assert prompt is not None
        rows = _aligned_rows(lm, prompt, donors[0])
    found: list[Intervention] = []
    for c in components:
        site = site_of(c)
        values = a.get(site.kind, where)[:, layers.index(c.layer)]
        values = values if site.index is None else values[:, site.index]
        if mode == "mean":
            found.append(mean_ablation(site, np.tensordot(counts / counts.sum(), values, 1), ALL))
        else:
            found.append(resample_ablation(site, values[rows], Positions("prompt")))
    return Condition(name, tuple(found))


def transplant(
    lm: LM,
    name: str,
    heads: Sequence[Head],
    source: Prompt,
    *,
    mode: PatchMode = "result",
    read: Positions | None = None,
    write: Positions | None = None,
) -> Condition:
    """Put what heads compute in ``source`` at one place into another text at one place.

    Args:
        read: one token of ``source`` (``last``, ``emotion-word-last``, …; several are averaged). write: where it goes.

    Raises:
        UsageError: no heads, an unknown mode, a place that the texts do not have.
    """
    if mode not in PATCH_MODES:
        raise unknown_name("patch mode", mode, list(PATCH_MODES))
    if not heads:
        raise UsageError("no heads to patch", "name at least one, as 3:5,7:2")
    here, there = read or Positions("last"), write or Positions("last")
    kind: Literal["z", "v"] = "z" if mode == "result" else "v"
    layers = sorted({h.layer for h in heads})
    values = capture(lm, [source], [kind], [here], layers=layers).get(kind, here)
    group = 1 if mode == "result" else lm.n_heads // lm.n_kv_heads
    places = dict.fromkeys((h.layer, h.index // group) for h in heads)  # heads that share their values: once
    swaps = [swap(Site(kind, layer, i), values[0, layers.index(layer), i], there) for layer, i in places]
    return Condition(name, tuple(swaps))


def _aligned_rows(lm: LM, prompt: Prompt, donor: Prompt) -> list[int]:
    """For each content token of ``prompt`` the row of the donor's content token that stands in for it."""
    own, other = lm.encode([prompt, donor])
    matched, rows = align(own, other), {at: i for i, at in enumerate(other.content)}
    return [rows.get(matched[at], 0) for at in own.content]
