"""Hub classifiers, on small random ones saved to folders: activations, names, revisions, and every refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.scorers import Continuation, LoadOptions, Scorer, find_scorer
from emotion_circuits.scorers.hub import KNOWN, HubScorer

WORDS = ["thank", "you", "so", "much", "i", "hate", "this", "the", "bus", "left"]
TEXTS = ["thank you so much", "i hate this", "the bus left", "you"]
Make = Callable[..., Path]


def tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", model_max_length=max_length,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    def make(labels: list[str], problem_type: str | None = None, kind: str = "roberta", max_length: int = 512) -> Path:
        torch.manual_seed(0)
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        common = {"vocab_size": 14, "pad_token_id": 1, "problem_type": problem_type, **names}
        model: RobertaForSequenceClassification | DistilBertForSequenceClassification
        if kind == "roberta":
            model = RobertaForSequenceClassification(
                RobertaConfig(
                    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                    max_position_embeddings=26, **common,
                )
            )  # fmt: skip
        else:
            model = DistilBertForSequenceClassification(
                DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=24, **common)
            )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.4)
        path = tmp_path / f"{kind}-{len(labels)}"
        model.save_pretrained(path)
        tokenizer(max_length).save_pretrained(path)
        return path

    return make


def load(path: Path) -> Scorer:
    return find_scorer(f"hub:{path}", LoadOptions(device="cpu", rows=2))


def scored(scorer: Scorer, texts: list[str]) -> dict[str, np.ndarray]:
    return scorer.score([Continuation(text, "thank you") for text in texts])


def logits(path: Path, text: str) -> torch.Tensor:
    """The textbook way: one text, no padding."""
    cls = RobertaForSequenceClassification if "roberta" in path.name else DistilBertForSequenceClassification
    model = cls.from_pretrained(path).eval()
    with torch.inference_mode():
        return model(**tokenizer(512)(text, return_tensors="pt", return_token_type_ids=False)).logits[0]


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
@pytest.mark.parametrize("problem", [None, "single_label_classification", "multi_label_classification"])
def test_scores_are_the_models_own_for_the_continuation_alone(folder: Make, kind: str, problem: str | None) -> None:
    path = folder(["anger", "remorse", "neutral"], problem, kind)
    scorer = load(path)
    assert scorer.columns == ("anger", "remorse", "neutral")
    scores = scored(scorer, TEXTS)
    for i, text in enumerate(TEXTS):
        raw = logits(path, text)
        expected = raw.sigmoid() if problem == "multi_label_classification" else raw.softmax(-1)
        got = [scores[column][i] for column in scorer.columns]
        assert got == pytest.approx(expected.tolist(), abs=1e-5)


def test_columns_of_our_emotions_and_the_value_of_an_empty_text(folder: Make) -> None:
    scorer = load(folder(["anger", "remorse"], "multi_label_classification"))
    assert scorer.emotion_column("apology") == "remorse" and scorer.emotion_column("joy") is None
    assert all(values.tolist() == [0, 0] for values in scored(scorer, ["", " \n"]).values())
    single = load(folder(["negative", "positive"]))
    assert {v for values in scored(single, [""]).values() for v in values} == {0.5}


def test_a_known_card_decides_where_the_config_says_nothing(folder: Make) -> None:
    path = folder(["LABEL_0", "LABEL_1", "LABEL_2"])
    model = RobertaForSequenceClassification.from_pretrained(path)
    scorer = HubScorer("hub:sentiment", model, tokenizer(512), "test", KNOWN["sentiment"])
    assert scorer.columns == ("negative", "neutral", "positive")
    assert scorer.kind == "single_label_classification"
    emotions = HubScorer(
        "hub:go-emotions", load(folder(["joy", "anger"]))._model, tokenizer(512), "t", KNOWN["go-emotions"]
    )
    assert emotions.kind == "multi_label_classification"
    card = emotions.card().to_dict()
    assert all(card[field] for field in ("what", "data", "licence", "scope", "calibration", "revision", "labels"))


def test_labels_without_a_meaning_are_refused(folder: Make) -> None:
    with pytest.raises(ModelError, match="LABEL_0, LABEL_1, which does not say") as error:
        load(folder(["LABEL_0", "LABEL_1"]))
    assert "id2label" in error.value.fix


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_long_texts_are_cut_at_the_models_length_and_marked(folder: Make, kind: str) -> None:
    scorer = load(folder(["bad", "good"], kind=kind, max_length=10**30))
    assert isinstance(scorer, HubScorer) and scorer.max_tokens == 24
    fits, long = " ".join(["bus"] * 22), " ".join(["bus"] * 23)
    assert scorer.notes([Continuation(fits), Continuation(long)]) == {"truncated": [False, True]}
    scores = scored(scorer, [fits, long])
    assert scores["good"][0] == pytest.approx(scores["good"][1], abs=1e-6)


def test_a_folder_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer(512).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="no sequence classifier: its config names BertModel"):
        load(tmp_path / "bert")


def test_missing_or_damaged_weights_are_refused(folder: Make, tmp_path: Path) -> None:
    path = folder(["bad", "good"])
    config = json.loads((path / "config.json").read_text())
    headless = tmp_path / "headless"
    shutil.copytree(path, headless)
    model = RobertaForSequenceClassification.from_pretrained(path)
    model.roberta.save_pretrained(headless)
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no usable weights for classifier"):
        load(headless)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load(path)


@pytest.mark.parametrize("name", [*KNOWN, "someone/some-classifier"])
def test_offline_is_a_loud_failure_and_no_other_evaluator(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match=f"evaluator hub:{name} is not available") as error:
        find_scorer(f"hub:{name}", LoadOptions(offline=True, device="cpu"))
    assert "nothing was scored" in error.value.fix


def test_the_resolved_revision_is_on_the_card(folder: Make, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--judge" / "snapshots" / commit
    shutil.copytree(folder(["bad", "good"]), snapshot)
    assert load(snapshot).card().revision.endswith(f"revision {commit}")


def test_names_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no evaluator is called hub:sentimental"):
        find_scorer("hub:sentimental")
    with pytest.raises(UsageError, match="names no model"):
        find_scorer("hub:")
    with pytest.raises(UsageError, match="no folder or file"):
        find_scorer(f"hub:{tmp_path / 'nothing'}")
