"""What a node of a circuit does, by three simple rules on measured figures.

- **reads**: the head attends to emotion words more than to matched words (the interval of the difference lies above 0).
- **writes**: what it adds along the endpoint's direction itself, clean text against donor, is at least half as large as
  its effect on the endpoint, with the same sign.
- **aggregates**: it matters for the endpoint (the interval of its change excludes 0) without being a writer: its effect
  passes through later nodes.

A node can read and write, or read and aggregate; a node without effect and without reading has no role. The rules are
descriptions, not tests: the family of nodes is corrected where the p-values are made.

The two figures of *writes* are not of one kind. The effect is a change of log-sum-exp, which the likeliest words
decide; the contribution is a difference of *mean* logits over the same words, because a decomposition has to be linear
(``Endpoint.direction``). Their ratio is therefore no share of the effect, and may exceed 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["reads", "aggregates", "writes"]
WRITES_FROM = 0.5
"""Direct contribution over effect from which on a node is called a writer."""


@dataclass(frozen=True)
class NodeFigures:
    """What is known of one node.

    ``change`` of the endpoint (log-sum-exp, nats) with its interval: ablated − clean; ``direct``: its own contribution
    to the difference of mean logits, clean − donor text; ``delta_low``: lower limit of the attention difference (None
    for MLPs).
    """

    change: float
    change_low: float
    change_high: float
    direct: float
    delta_low: float | None = None


def node_roles(figures: NodeFigures) -> tuple[Role, ...]:
    """The roles of one node, in the order in which information flows."""
    roles: list[Role] = []
    if figures.delta_low is not None and figures.delta_low > 0:
        roles.append("reads")
    if figures.change_low <= 0 <= figures.change_high:
        return tuple(roles)
    # Ablation takes the direct contribution away: a writer's change is about minus what it adds.
    writes = -figures.direct / figures.change >= WRITES_FROM
    roles.append("writes" if writes else "aggregates")
    return tuple(roles)
