"""Sequence classifiers from the Hugging Face hub or a folder, as evaluators: none takes the place of one that fails.

``hub:sentiment``, ``hub:politeness``, ``hub:go-emotions`` and ``hub:sst2`` are known by name; ``hub:OWNER/NAME`` and
``hub:FOLDER`` load any other. Single-label classifiers give a softmax over labels, multi-label ones a logistic function
per label, as the config's ``problem_type`` (or, for a known one, its model card) says. Column names are the config's
labels; ``LABEL_0`` says nothing, so it is refused where the card does not say what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.scorers._contract import Card, Continuation, LoadOptions, Scorer
from emotion_circuits.scorers._registry import scorer

if TYPE_CHECKING:
    from jaxtyping import Float

Kind = Literal["single_label_classification", "multi_label_classification"]
_ROWS = 32
_UNNAMED = re.compile(r"label[_ ]?\d+", re.IGNORECASE)
_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Known:
    """What a published classifier's model card says; ``labels`` renames what its config calls ``LABEL_0`` and so on."""

    repository: str
    what: str
    data: str
    licence: str
    kind: Kind
    labels: Mapping[str, str]


KNOWN: dict[str, Known] = {
    "sentiment": Known(
        "cardiffnlp/twitter-roberta-base-sentiment-latest",
        "negative, neutral or positive sentiment of a text",
        "124 M tweets (2018-2021), fine-tuned on TweetEval sentiment",
        "CC BY 4.0",
        "single_label_classification",
        {"LABEL_0": "negative", "LABEL_1": "neutral", "LABEL_2": "positive"},
    ),
    "politeness": Known(
        "michellejieli/Stanford_politeness_roberta",
        "whether a request is polite",
        "Stanford Politeness Corpus",
        "see its model card",
        "single_label_classification",
        {},
    ),
    "go-emotions": Known(
        "bhadresh-savani/roberta-base-go-emotions",
        "which of 28 emotions a comment shows; several are possible",
        "GoEmotions (Reddit comments, Demszky et al. 2020)",
        "see its model card; data CC BY 4.0",
        "multi_label_classification",
        {},
    ),
    "sst2": Known(
        "distilbert-base-uncased-finetuned-sst-2-english",
        "negative or positive sentiment of a sentence",
        "Stanford Sentiment Treebank 2 (film reviews)",
        "Apache-2.0",
        "single_label_classification",
        {"LABEL_0": "NEGATIVE", "LABEL_1": "POSITIVE"},
    ),
}


@scorer("hub:", "Any sequence classifier of the hub or a folder.")
class HubScorer(Scorer):
    """One column per label of the classifier, P(label) in [0, 1].

    An empty text has the same value for every label: 1 / (number of labels) of a single-label classifier, 0 of a
    multi-label one.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, source: str, known: Known | None = None, *, rows: int = _ROWS
    ) -> None:
        """From objects in memory; ``source`` says where they are from, with the revision."""
        self.title, self.known = name, known
        self._model, self._tokenizer, self._source, self._rows = model.eval(), tokenizer, source, rows
        self.kind = _kind(name, model.config, known)
        self.columns = _labels(name, model.config, known)
        self.max_tokens = _max_tokens(model.config, tokenizer)

    @classmethod
    def members(cls) -> dict[str, str]:
        return {f"hub:{name}": f"{known.what} ({known.repository})" for name, known in KNOWN.items()}

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        """``target`` is a known name, ``OWNER/NAME`` or a folder.

        Raises:
            UsageError: no such repository, folder or revision. ModelError: it cannot be fetched or read, is no sequence
                classifier, or its labels have no names.
        """
        from emotion_circuits.models.load import resolve_device

        device = resolve_device(options.device)
        known = KNOWN.get(target) or next((k for k in KNOWN.values() if k.repository == target), None)
        found = _resolve(target, known, options)
        model, tokenizer = _loaded(f"hub:{target}", found.folder)
        source = f"{found.source}, revision {found.revision}" if found.revision else found.source
        return cls(f"hub:{target}", model.to(device), tokenizer, source, known, rows=options.rows or _ROWS)

    def empty_value(self, column: str) -> float:
        return 1 / len(self.columns) if self.kind == "single_label_classification" else 0.0

    def score_present(self, texts: Sequence[str]) -> dict[str, Float[np.ndarray, " text"]]:
        from emotion_circuits.models.products import inference

        found = np.empty((len(texts), len(self.columns)))
        lengths = [len(ids) for ids in self._ids(texts)]
        order = sorted(range(len(texts)), key=lambda i: -lengths[i])
        for start in range(0, len(order), self._rows):
            rows = order[start : start + self._rows]
            batch = self._tokenizer(
                [texts[i] for i in rows], truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
            )
            with inference(self._model):
                logits = self._model(**batch.to(self._model.device)).logits.double()
            single = self.kind == "single_label_classification"
            found[rows] = (logits.softmax(-1) if single else logits.sigmoid()).cpu().numpy()
        return {column: found[:, k] for k, column in enumerate(self.columns)}

    def notes(self, texts: Sequence[Continuation]) -> dict[str, list[bool]]:
        """``truncated``: longer than the classifier has positions for; only its beginning was scored."""
        return {"truncated": [len(ids) > self.max_tokens for ids in self._ids([t.text for t in texts])]}

    def card(self) -> Card:
        known = self.known
        single = self.kind == "single_label_classification"
        return Card(
            name=self.title,
            what=known.what if known else "what its own model card says",
            data=known.data if known else "see its own model card",
            licence=known.licence if known else "see its own model card",
            scope=f"English, unless its model card says otherwise; the first {self.max_tokens} tokens of a text",
            calibration=f"not measured here; {'softmax over the labels' if single else 'one probability per label'}",
            revision=self._source,
            labels=self.columns,
            details={"kind": self.kind, "repository": known.repository if known else None},
        )

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return ids


def _resolve(target: str, known: Known | None, options: LoadOptions) -> Any:
    """The folder on this machine; the errors of a language model's source, with an evaluator's way out."""
    from emotion_circuits.models.sources import resolve_source
    from emotion_circuits.models.sources.errors import UnreachableError

    here = not known and (Path(target).expanduser().exists() or target.startswith((".", "~", "/")))
    if not here and not known and "/" not in target:
        raise UsageError(
            f"no evaluator is called hub:{target}",
            f"known are {', '.join(f'hub:{k}' for k in KNOWN)}; any other is hub:OWNER/NAME or hub:FOLDER",
        )
    source: str | Path = Path(target) if here else (known.repository if known else target)
    try:
        return resolve_source(source, cache=options.cache, offline=options.offline, revision=options.revision)
    except UnreachableError as error:
        what = error.what
        raise ModelError(
            f"evaluator hub:{target} is not available: {what}",
            "fetch it where the hub can be reached, name a folder that holds it (hub:FOLDER), or ask for embedded, "
            "which needs no hub; nothing was scored",
        ) from error


def _loaded(name: str, folder: Path) -> tuple[Any, Any]:
    """Classifier and tokenizer of a folder; refuses weights that are missing, as they would be random numbers."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from emotion_circuits.models.load import quiet_loader

    try:
        with quiet_loader():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if not any(str(a).endswith("ForSequenceClassification") for a in config.architectures or ()):
                raise ModelError(
                    f"{name} is no sequence classifier: its config names {', '.join(config.architectures or ['none'])}",
                    "name a model whose architecture ends in ForSequenceClassification",
                )
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"{name} could not be loaded from {folder}: {reason}", "check that the folder holds model and tokenizer"
        ) from error
    if absent := [*sorted(info["missing_keys"]), *(str(key[0]) for key in info["mismatched_keys"])]:
        raise ModelError(
            f"{name} has no usable weights for {absent[0]} ({len(absent)} tensors in all)",
            "choose a classifier whose files are complete; random weights are never used",
        )
    return model, tokenizer


def _kind(name: str, config: Any, known: Known | None) -> Kind:
    """From the config, else from the known card, else single-label, which is what transformers means by nothing."""
    stated = getattr(config, "problem_type", None)
    if stated in get_args(Kind):
        return cast(Kind, stated)
    if stated is not None or config.num_labels < 2:
        raise ModelError(
            f"{name} is no classifier of texts into labels ({stated or '1 output'})", "choose one with named labels"
        )
    return known.kind if known else "single_label_classification"


def _labels(name: str, config: Any, known: Known | None) -> tuple[str, ...]:
    given = [str(config.id2label[i]) for i in range(config.num_labels)]
    meant = known.labels if known else {}
    labels = tuple(meant.get(label, label) for label in given)
    unnamed = [label for label in labels if _UNNAMED.fullmatch(label.strip())]
    if unnamed or len(set(labels)) != len(labels):
        raise ModelError(
            f"{name} calls its labels {', '.join(labels[:4])}{', …' if len(labels) > 4 else ''}, which does not say "
            "what they mean",
            "write the meaning into id2label of its config.json, from its model card, and name that folder",
        )
    return labels


def _max_tokens(config: Any, tokenizer: Any) -> int:
    """How many tokens a text may have, special ones included."""
    positions = int(getattr(config, "max_position_embeddings", None) or _UNLIMITED)
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer", "xlm-roberta-xl"):
        positions -= int(config.pad_token_id) + 1  # their positions are counted from the padding id on
    return min(positions, int(tokenizer.model_max_length))
