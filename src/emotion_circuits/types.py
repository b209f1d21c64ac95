"""The nouns of the project, as frozen dataclasses with no model code behind them.

Nothing here imports torch; numpy only for annotations. Everything above (engine, representations, experiments) speaks
in these terms, so a reader who knows this file can read any signature in the package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from emotion_circuits.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

NEUTRAL = "neutral"
"""The label every emotion is compared with."""

Split = Literal["fit", "dev", "test"]
Stratum = Literal["explicit", "implicit", "none"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text with what is known about it.

    ``scenario`` clusters matched texts (same situation, another emotion) and is the unit of every interval;
    ``spans`` are the character spans ``(start, end)`` of the emotion words in ``text``. A neutral text that is read at
    the position of an emotion's words carries that emotion as ``matched``.
    """

    id: str
    text: str
    emotion: str = NEUTRAL
    scenario: str | None = None
    stratum: Stratum = "none"
    split: Split | None = None
    spans: tuple[tuple[int, int], ...] = ()
    domain: str | None = None
    source: str = "user"
    language: str = "en"
    matched: str = ""


SiteKind = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "result", "pattern", "neuron"
]
SITE_KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
HEAD_KINDS: frozenset[str] = frozenset({"q", "k", "v", "z", "result", "pattern"})
INDEXED_KINDS: frozenset[str] = HEAD_KINDS | {"neuron"}

_TRANSFORMER_LENS: dict[str, SiteKind] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_result": "result",
    "attn.hook_pattern": "pattern",
    "mlp.hook_post": "neuron",
}


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """An address inside the model: what kind of activation, in which layer, which head or neuron (or all of them).

    ``resid_pre`` is the input of a block and ``resid_post`` its output (never the final-norm output);
    ``z`` is the input of the attention output projection, ``result`` = z_h · W_O[h] without bias,
    ``neuron`` the input of the MLP down-projection. ``str(site)`` is ``L5.z.3`` and :meth:`parse` reads it back,
    as well as TransformerLens hook names (``blocks.5.attn.hook_z``).
    """

    kind: SiteKind
    layer: int
    index: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in SITE_KINDS:
            raise unknown_name("site kind", self.kind, list(SITE_KINDS))
        if self.layer < 0:
            raise UsageError(f"site layer must be 0 or more, not {self.layer}")
        if self.index is not None and (self.kind not in INDEXED_KINDS or self.index < 0):
            raise UsageError(
                f"site {self.kind!r} takes no index {self.index}; heads and neurons do", "write it as L5.resid_post"
            )

    def __str__(self) -> str:
        tail = "" if self.index is None else f".{self.index}"
        return f"L{self.layer}.{self.kind}{tail}"

    @classmethod
    def parse(cls, address: str) -> Site:
        """Read ``L5.z.3``, ``L5.resid_post`` or a TransformerLens name; raises :class:`UsageError` otherwise."""
        if match := re.fullmatch(r"L(\d+)\.([a-z_]+)(?:\.(\d+))?", address):
            layer, kind, index = match.groups()
            return cls(cast(SiteKind, kind), int(layer), None if index is None else int(index))
        if match := re.fullmatch(r"blocks\.(\d+)\.((?:attn\.|mlp\.)?hook_\w+)", address):
            layer, hook = match.groups()
            # TransformerLens writes both blocks.0.hook_z and blocks.0.attn.hook_z in its documentation.
            for name in (hook, f"attn.{hook}", f"mlp.{hook}"):
                if name in _TRANSFORMER_LENS:
                    return cls(_TRANSFORMER_LENS[name], int(layer))
        raise UsageError(
            f"cannot read site address {address!r}",
            "write it as L5.resid_post, L5.z.3 (layer 5, head 3) or blocks.5.attn.hook_z",
        )


PositionKind = Literal[
    "last", "all", "mean-content", "emotion-word", "span", "prompt", "generated", "window", "at", "onward"
]
POSITION_KINDS: tuple[PositionKind, ...] = get_args(PositionKind)
Occurrence = Literal["first", "last", "all"]


@dataclass(frozen=True, slots=True)
class Positions:
    """Which token positions are read or edited, independent of padding and of the tokenizer.

    Content positions are the text's own tokens: the prefix token (which holds the attention sink), padding and
    zero-width tokens never count. Position 0 is the first content token.

    - ``last``: the last prompt token · ``all``: every content token
    - ``mean-content``: content tokens, their mean (read),
      or all of the prompt's (edit; tokens generated later are not edited: name ``onward`` or ``generated`` for them)
    - ``emotion-word`` (``which`` = first, last, all occurrence of tokens): tokens that overlap the emotion-word spans
    - ``span`` (``values`` = start, end): tokens that overlap a character range of the text
    - ``prompt``, ``generated``, ``onward`` (the prompt's last token and everything generated)
    - ``window`` (``values`` = (W,)): the last W prompt positions · ``at`` (``values``): explicit prompt positions
    """

    kind: PositionKind
    which: Occurrence = "all"
    values: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.kind == "emotion-word":
            return f"emotion-word-{self.which}"
        if self.values:
            separator = "-" if self.kind == "span" else ","
            return f"{self.kind}:{separator.join(map(str, self.values))}"
        return self.kind

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Read ``last``, ``mean-content``, ``emotion-word-first``, ``span:4-9``, ``window:3``, ``at:0,2``, …"""
        if match := re.fullmatch(r"emotion-word(?:-(first|last|all))?", text):
            return cls("emotion-word", cast(Occurrence, match[1] or "all"))
        if match := re.fullmatch(r"span:(\d+)-(\d+)", text):
            start, end = int(match[1]), int(match[2])
            if end <= start:
                raise UsageError(
                    f"position {text!r} is an empty character range", "write span:START-END with END > START"
                )
            return cls("span", values=(start, end))
        if match := re.fullmatch(r"window:([1-9]\d*)", text):
            return cls("window", values=(int(match[1]),))
        if match := re.fullmatch(r"at:(\d+(?:,\d+)*)", text):
            return cls("at", values=tuple(int(v) for v in match[1].split(",")))
        if text in POSITION_KINDS and text not in ("span", "window", "at"):
            return cls(text)
        raise unknown_name(
            "position", text, ["last", "all", "mean-content", "emotion-word-first", "emotion-word-last",
                               "emotion-word-all", "span:4-9", "prompt", "generated", "onward", "window:3", "at:0,2"],
        )  # fmt: skip


@dataclass(frozen=True)
class Activations:
    """Captured values, rows in prompt order.

    ``values[(kind, str(position))]`` has shape ``[prompt, layer, d]`` (``[prompt, layer, head, d_head]`` for q, k, v, z
    and result). Values may be memory-mapped: treat them as read-only. At position ``all`` there is one row per content
    token instead, and prompt p has the rows from ``token_starts[p]`` to ``token_starts[p + 1]``.
    """

    prompts: tuple[Prompt, ...]
    layers: tuple[int, ...]
    values: Mapping[tuple[str, str], FloatArray]
    model: str
    token_starts: tuple[int, ...] = ()

    def get(self, kind: SiteKind, position: Positions | str) -> FloatArray:
        """``[prompt, layer, …]`` of one site kind at one position; raises with what was captured instead."""
        key = (kind, str(position))
        if key not in self.values:
            have = ", ".join(f"{k}@{p}" for k, p in self.values)
            raise UsageError(
                f"{kind}@{position} was not captured; captured: {have}", f"add --sites {kind} --positions {position}"
            )
        return self.values[key]


@dataclass(frozen=True)
class Direction:
    """One emotion's direction at one site of one model.

    ``vector`` is ``[d_model]`` float64 in the model's own coordinates, not normalised. ``residual_norm`` is the mean
    norm of the residual stream at the positions it was read from (unit of "fraction of residual norm").
    ``neutral_sd()`` is the standard deviation of neutral texts along the direction (unit of "SD on neutral"): a
    function, because those texts may have to be read from disk first.
    """

    emotion: str
    site: Site
    position: Positions
    method: str
    vector: FloatArray
    model: str
    residual_norm: float
    neutral_sd: Callable[[], float]


@dataclass(frozen=True)
class Intervention:
    """One edit: what is done to which activation at which positions.

    ``op``: ``add`` (x + s·v), ``set`` (x = v), ``scale`` (x = s·x), ``project_out`` (remove the component along v),
    ``zero``. ``vector`` is ``[d]`` of the site (``None`` for scale and zero), or ``[token, d]``: one row for each
    prompt position that ``positions`` names, in order, which never acts on generated tokens. ``strength`` is s;
    ``schedule`` multiplies the strength at generation step t (missing steps repeat the last entry). Strength 0 changes
    nothing, bit for bit (for ``scale`` it is 1 that changes nothing).

    Raises:
        UsageError: a strength or schedule that is not finite, or an empty schedule.
    """

    site: Site
    op: Literal["add", "set", "scale", "project_out", "zero"]
    positions: Positions = Positions("all")
    vector: FloatArray | None = None
    strength: float = 1.0
    schedule: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise UsageError(f"{self.site}: strength {self.strength} is not a finite number", "give a finite strength")
        if not self.schedule or not all(map(math.isfinite, self.schedule)):
            raise UsageError(
                f"{self.site}: schedule {self.schedule} is empty or has an entry that is not finite",
                "give one finite multiplier a step; (1.0,) is a constant strength",
            )


@dataclass(frozen=True)
class Condition:
    """A named set of interventions that is applied to a row; an empty one is the baseline."""

    name: str
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured value: the row of the observation table that every experiment writes.

    Effects are differences between an arm and the ``baseline`` arm with the same cell and ``unit``; ``cluster`` is the
    scenario (or prompt) over which intervals resample. ``cell`` columns that do not apply are empty.
    """

    experiment: str
    model: str
    emotion: str
    layer: int | None
    position: str | None
    strength: float | None
    arm: str
    unit: str
    cluster: str
    split: str | None
    sample: int
    scorer: str
    value: float


OBSERVATION_COLUMNS: tuple[str, ...] = tuple(Observation.__slots__)
CELL_COLUMNS: tuple[str, ...] = ("experiment", "model", "emotion", "layer", "position", "strength", "scorer")
BASELINE_ARM = "baseline"


@dataclass(frozen=True)
class Figure:
    """A figure that a report can draw twice: as Vega-Lite in HTML and with matplotlib on paper.

    ``kind`` names a drawing function in ``report/figures``; ``data`` is a list of plain rows.
    """

    name: str
    kind: str
    title: str
    caption: str
    alt: str
    data: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of a report: ``rows`` are plain mappings, ``columns`` maps a row's key to its heading (order kept)."""

    name: str
    title: str
    caption: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """One question of a report: the answer in sentences first, then figures and tables, then limits."""

    name: str
    heading: str
    answer: Sequence[str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    limits: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """A research question and its answers, a line each; without answers, ``reason`` says why there are none."""

    question: str
    answers: Sequence[str] = ()
    reason: str = ""

    def lines(self) -> list[str]:
        """The verdict as lines of a terminal."""
        if not self.answers:
            return [f"{self.question} – {self.reason}"]
        return [self.question, *(f"  {a}" for a in self.answers)]


@dataclass(frozen=True)
class Report:
    """Everything a report shows; ``verdicts`` are the research questions in order."""

    title: str
    profile: str
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]
    methods: Sequence[str]
    command: str
    provenance: Mapping[str, str]
