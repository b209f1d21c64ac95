"""The primary endpoint of steering: how much likelier an emotion's word is next than a matched neutral one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError

if TYPE_CHECKING:
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.engine.score import Metric
    from emotion_circuits.experiments._measure import Measure
    from emotion_circuits.scorers.emotion_tokens import TokenSets

TOKENS = "emotion-tokens"
"""File of a run that lists the tokens the endpoint counts on this model."""


class EndpointTokens:
    """The token sets of one model and the metrics made of them.

    They are resolved on neutral text when they are first asked for, and saved with the run: make one for a whole run.
    """

    def __init__(self, measure: Measure, emotions: Sequence[str]) -> None:
        self._measure = measure
        self.emotions = tuple(emotions)

    @cached_property
    def tokens(self) -> TokenSets:
        from emotion_circuits.scorers.emotion_tokens import matching_prefixes, resolve_emotion_tokens

        found = resolve_emotion_tokens(self._measure.lm, self.emotions, matching_prefixes())
        self._measure.run.write_json(f"{TOKENS}.json", found.to_dict())
        return found

    def metric(self, emotion: str) -> Endpoint:
        """Log-sum-exp of the emotion's first tokens minus that of as many matched neutral ones, in nats."""
        return _endpoint(self.tokens, emotion)

    def of_cell(self, emotion: str, fitted_on: Sequence[str]) -> dict[str, Metric]:
        """What is measured at a declared cell: the endpoint, the KL divergence from the unsteered model, and halves.

        A word that the vector's own texts contain may rise for that reason alone: ``seen_words`` and ``unseen_words``
        are the endpoint on tokens of words that occur in ``fitted_on`` and on the others (where there are both).
        """
        from emotion_circuits.engine import kl_from_baseline

        found: dict[str, Metric] = {"endpoint": self.metric(emotion), "kl": kl_from_baseline()}
        for name, half in zip(("seen_words", "unseen_words"), self.tokens.split(fitted_on), strict=True):
            if emotion in half.emotions:
                found[name] = _endpoint(half, emotion)
        return found

    def of_grid(self) -> dict[str, Metric]:
        """Every emotion's endpoint, and the KL divergence."""
        from emotion_circuits.engine import kl_from_baseline

        return {**{e: self.metric(e) for e in self.emotions}, "kl": kl_from_baseline()}


def _endpoint(tokens: TokenSets, emotion: str) -> Endpoint:
    from emotion_circuits.circuits.endpoints import Endpoint

    return Endpoint(tokens.ids(emotion), tokens.neutral_ids(emotion))


def require_words(emotions: Sequence[str]) -> None:
    """Raise for an emotion without a lexicon: there is nothing whose likelihood could be measured."""
    from emotion_circuits.prompts.lexicon import emotions_with_words

    known = emotions_with_words()
    if not (missing := [e for e in emotions if e not in known]):
        return
    rest = [e for e in emotions if e in known]
    leave_out = f"choose others: --emotions {' '.join(rest)}; " if rest else ""
    raise UsageError(
        f"{' and '.join(map(repr, missing))} cannot be measured here: the endpoint is how likely an emotion's words "
        f"come next, and there are lists of words for {', '.join(known)} only",
        f"{leave_out}`run directions`, `run transfer` and `run steer --emotion {missing[0]}` need no list; or give "
        "words: `prompts build --from TEXTS --name NAME --words WORDS.toml` (docs/extend/emotion.md shows a list)",
    )


def endpoint_inputs(emotions: Sequence[str]) -> Mapping[str, Any]:
    """What the endpoint depends on besides the model: the lexicons and the neutral pool.

    The package's everyday and function words are in no key: tests/unit/test_unhashed_data.py pins them, and says which
    experiments' versions a change of theirs raises.

    Raises:
        UsageError: one of ``emotions`` has no lexicon.
    """
    from emotion_circuits.experiments._captured import fingerprint_prompts
    from emotion_circuits.prompts import load_prompts
    from emotion_circuits.prompts.lexicon import load_lexicons
    from emotion_circuits.store import content_key

    require_words(emotions)
    return {
        "pool": fingerprint_prompts(load_prompts("neutral_pool")), "lexicons": content_key(dict(load_lexicons())),
        **own_words(emotions),
    }  # fmt: skip


def own_words(emotions: Sequence[str]) -> Mapping[str, Any]:
    """The user's own lists of words for ``emotions``: an input where there are any."""
    from emotion_circuits.prompts.lexicon import own_lexicons

    lists = own_lexicons()
    used = {emotion: lists[emotion] for emotion in emotions if emotion in lists}
    return {"own_words": used} if used else {}
