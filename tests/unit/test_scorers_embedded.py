"""Heads on features: training, files, figures; and the shipped heads on the real encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.scorers import Continuation, LoadOptions, Scorer, find_scorer
from emotion_circuits.scorers._evaluation import best_threshold, expected_calibration_error, label_quality
from emotion_circuits.scorers._files import GOEMOTIONS, read_ratings, read_texts
from emotion_circuits.scorers._heads import SHIPPED, Head, read_heads, write_heads
from emotion_circuits.scorers._training import Recipe, train_emotions, train_politeness
from emotion_circuits.scorers.embedded import EmbeddedScorer

WIDTH = 12
QUICK = Recipe(hidden=16, epochs=15, batch=16, dropout=0.1, input_dropout=0.0)


class WordFeatures:
    """An encoder for tests: each layer is the sum of a fixed random vector per word."""

    revision = "words"

    def features(self, texts: Sequence[str], layers: Sequence[int], progress: object = None) -> np.ndarray:
        rows = [np.concatenate([self._layer(text, layer) for layer in layers]) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), len(layers) * WIDTH)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        return [len(text) > 100 for text in texts]

    def _layer(self, text: str, layer: int) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(f"{layer}{w}".encode()).digest()[:4], "big") for w in text.split()]
        return np.mean([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds], axis=0)


def comments(n: int = 240) -> tuple[list[str], list[frozenset[str]]]:
    rng = np.random.default_rng(1)
    fillers = ["bus", "door", "lamp", "street", "garden", "window", "table", "river"]
    texts, labels = [], []
    for i in range(n):
        words = [*rng.choice(fillers, 4), str(i)]
        own = frozenset(label for label in ("joy", "anger") if rng.random() < 0.4)
        texts.append(" ".join(rng.permutation([*words, *own])))
        labels.append(own)
    return texts, labels


def test_a_trained_head_tells_labels_apart_on_held_out_texts() -> None:
    texts, labels = comments(600)
    head, card = train_emotions(WordFeatures(), texts, labels, ["joy", "anger"], recipe=QUICK)
    figures = card["held_out"]
    assert figures["n"] + card["n_train"] == len(texts) and figures["n"] >= 10
    assert figures["macro_auroc"] > 0.9
    assert all(0 < row["threshold"] < 1 and row["ece"] >= 0 for row in figures["labels"].values())
    assert head.labels == ("joy", "anger")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    texts, labels = comments()
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        head, card = train_emotions(WordFeatures(), texts, labels, ["joy", "anger"], recipe=QUICK, seed=seed)
        write_heads(tmp_path / name, {"emotions": head}, {"encoder": "words", "emotions": card})
        written.append((tmp_path / name / "emotions.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]


def test_copies_of_a_text_are_never_held_out_from_themselves() -> None:
    texts, labels = comments(60)
    _, once = train_emotions(WordFeatures(), texts, labels, ["joy", "anger"], recipe=QUICK)
    _, twice = train_emotions(
        WordFeatures(), texts + [t.upper() for t in texts], labels * 2, ["joy", "anger"], recipe=QUICK
    )
    assert twice["held_out"]["n"] == 2 * once["held_out"]["n"]


def test_politeness_is_top_against_bottom_quartile_cross_validated() -> None:
    rng = np.random.default_rng(2)
    texts, _ = comments(200)
    polite = rng.random(200) < 0.5
    ratings = polite + rng.normal(scale=0.2, size=200)
    texts = [f"{'please' if p else 'now'} {text}" for p, text in zip(polite, texts, strict=True)]
    head, card = train_politeness(WordFeatures(), texts, ratings, inverse_penalty=1.0)
    assert card["n_train"] == 100 and card["cross_validated"]["macro_auroc"] > 0.9
    _, chance = train_politeness(WordFeatures(), texts, rng.normal(size=200))
    assert chance["cross_validated"]["macro_auroc"] < 0.75
    assert head.labels == ("politeness",)


def test_training_refuses_what_it_cannot_learn_from() -> None:
    texts, labels = comments(60)
    with pytest.raises(UsageError, match="no text has the label 'pride'"):
        train_emotions(WordFeatures(), texts, labels, ["joy", "pride"])
    with pytest.raises(UsageError, match="10 texts are too few"):
        train_emotions(WordFeatures(), texts[:10], labels[:10], ["joy"])
    with pytest.raises(UsageError, match="no top and bottom"):
        train_politeness(WordFeatures(), texts, np.ones(60))


def small_heads() -> tuple[dict[str, Head], dict[str, object]]:
    texts, labels = comments()
    head, card = train_emotions(WordFeatures(), texts, labels, ["joy", "anger"], recipe=QUICK)
    polite, polite_card = train_politeness(WordFeatures(), texts, np.arange(240.0))
    described = {"data": "made up", "licence": "none"}
    return {"emotions": head, "politeness": polite}, {
        "encoder": "words", "emotions": card | described, "politeness": polite_card | described,
    }  # fmt: skip


def test_heads_survive_the_round_trip_to_half_precision(tmp_path: Path) -> None:
    heads, card = small_heads()
    write_heads(tmp_path, heads, card)
    back, described = read_heads(tmp_path)
    x = WordFeatures().features(["joy bus", "anger door"], heads["emotions"].layers)
    for name, head in heads.items():
        assert np.allclose(back[name].probabilities(x), head.probabilities(x), atol=5e-3)
    scorer = EmbeddedScorer(WordFeatures(), back, described)
    scores = scorer.score([Continuation(""), Continuation("joy bus"), Continuation("anger bus")])
    assert scorer.columns == ("joy", "anger", "politeness")
    assert (scores["joy"][0], scores["politeness"][0]) == (0, 0.5)
    assert scores["joy"][1] > scores["joy"][2] and scores["anger"][2] > scores["anger"][1]
    assert scorer.notes([Continuation("x" * 101)]) == {"truncated": [True]}
    assert json.dumps(scorer.card().to_dict()) and set(scorer.thresholds) == set(scorer.columns)


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of heads"):
        read_heads(tmp_path)
    heads, card = small_heads()
    write_heads(tmp_path, heads, card)
    described = json.loads((tmp_path / "card.json").read_text())
    described["heads"]["emotions"]["labels"].append("pride")
    (tmp_path / "card.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="does not hold the head"):
        read_heads(tmp_path)
    (tmp_path / "card.json").write_text('{"heads": {"emotions": {}}}')
    with pytest.raises(ModelError, match="damaged or incomplete"):
        read_heads(tmp_path)


def test_texts_without_a_score_are_in_no_auroc() -> None:
    scores = {"a": np.array([0.9, np.nan, 0.1, 0.2, np.nan])}
    (found,) = label_quality(scores, [frozenset("a"), frozenset("a"), *[frozenset("b")] * 3], {"a": "a"})
    assert (found.auroc, found.n, found.rest) == (1.0, 1, 2)


def test_label_quality_is_one_vs_rest_over_all_texts() -> None:
    rng = np.random.default_rng(0)
    labels = [frozenset(k for k in ("a", "b") if rng.random() < 0.5) for _ in range(80)]
    scores = {"a": rng.normal(size=80), "b": rng.normal(size=80)}
    for row in label_quality(scores, labels, {"a": "a", "b": "b", "never": "a"}):
        truth = [row.label in own for own in labels]
        assert row.auroc == pytest.approx(roc_auc_score(truth, scores[row.column]))
        assert (row.n, row.rest) == (sum(truth), 80 - sum(truth))


def test_threshold_and_calibration_by_hand() -> None:
    scores, positive = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])
    assert best_threshold(scores, positive) == pytest.approx(0.55)
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    truth = rng.random(20_000) < p
    assert expected_calibration_error(p, truth) < 0.02
    assert expected_calibration_error(np.clip(p + 0.2, 0, 1), truth) > 0.1


FORMS = {
    "a.jsonl": '{"text": "Thanks", "labels": "joy, gratitude"}\n{"text": "Go", "labels": []}\n',
    "a.csv": 'text,labels\nThanks,"joy,gratitude"\nGo,\n',
    "a.json": '[{"text": "Thanks", "labels": ["joy", "gratitude"]}, {"text": "Go", "labels": ""}]',
    "head.tsv": "text\tlabels\nThanks\tjoy,gratitude\nGo\t\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_reads_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name])
    found = read_texts(tmp_path / name)
    assert [t.text for t in found.texts] == ["Thanks", "Go"]
    assert found.labels == (frozenset({"joy", "gratitude"}), frozenset())


def test_goemotions_form_plain_lines_and_lists_per_emotion(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text('"Thanks" he said\t15,17\tid1\nGo\t27\tid2\n')
    found = read_texts(tmp_path / "g.tsv")
    assert found.texts[0].text == '"Thanks" he said'
    assert found.labels == (frozenset({"gratitude", "joy"}), frozenset({"neutral"}))
    (tmp_path / "t.txt").write_text("one\n\nthree\n")
    plain = read_texts(tmp_path / "t.txt")
    assert [t.text for t in plain.texts] == ["one", "", "three"] and plain.labels is None
    (tmp_path / "e.json").write_text('{"anger": ["Grr"], "neutral": ["Go", "So"]}')
    assert read_texts(tmp_path / "e.json").labels == (
        frozenset({"anger"}), frozenset({"neutral"}), frozenset({"neutral"}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "empty"),
        ("a.jsonl", '{"text": "x"}\n{"text": ', "a.jsonl:2"),
        ("a.jsonl", '{"body": "x"}\n', "no field text; fields: body"),
        ("a.jsonl", '{"text": 3}\n', "expected a text, found int"),
        ("a.jsonl", '{"text": "x", "emotion": "joy"}\n{"text": "y"}\n', "text 2 has no label"),
        ("a.csv", "body\nx\n", "no field text"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "3", "expected a list"),
        ("a.tsv", "Thanks\t99\tid\n", "label numbers below 28"),
        ("a.docx", "x", "not a format"),
    ],
)
def test_bad_files_are_refused_by_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_texts(tmp_path / name)


def test_ratings_need_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Community,Request,Normalized Score\nWikipedia,Could you?,1.5\n")
    assert read_ratings(path) == (["Could you?"], [1.5])
    path.write_text("Request,Normalized Score\nCould you?,high\n")
    with pytest.raises(UsageError, match="'high' is no number"):
        read_ratings(path)
    with pytest.raises(UsageError, match="no file"):
        read_ratings(tmp_path / "none.csv")


@pytest.fixture(scope="module")
def shipped(embedded: Callable[[str], LocalModel]) -> Scorer:
    embedded("minilm")
    return find_scorer("embedded", LoadOptions(device="cpu"))


@pytest.mark.real_model
def test_shipped_heads_know_their_emotions(shipped: Scorer) -> None:
    assert set(GOEMOTIONS) | {"politeness"} == set(shipped.columns)
    texts = {
        "gratitude": "Thank you so much for your help, I really appreciate it.",
        "anger": "This makes me furious, what a stupid, infuriating idiot you are!",
        "apology": "I am so sorry, I feel terrible about what I did to you.",
        "joy": "I am so happy today, this made me smile!",
        "sadness": "I cried all night, it is so sad that he is gone.",
        "fear": "I was terrified, it was so scary.",
    }
    scores = shipped.score([Continuation(text) for text in [*texts.values(), "The bus leaves at noon."]])
    for i, emotion in enumerate(texts):
        column = shipped.emotion_column(emotion)
        assert column is not None and int(scores[column].argmax()) == i, emotion
    assert scores["neutral"].argmax() == len(texts)
    asked = shipped.score(
        [Continuation("Could you please have a look at it? Thanks!"), Continuation("Why did you do that?")]
    )
    assert asked["politeness"][0] > 0.5 > asked["politeness"][1]


@pytest.mark.real_model
def test_batching_and_prompts_do_not_change_scores(shipped: Scorer) -> None:
    texts = ["Thank you!", "I hate this, it makes me so angry that I could scream " * 3, "No."]
    together = shipped.score([Continuation(t, prompt="I am sorry") for t in texts])
    for i, text in enumerate(texts):
        alone = shipped.score([Continuation(text)])
        assert all(alone[c][0] == pytest.approx(together[c][i], abs=1e-4) for c in shipped.columns)


def test_shipped_files_are_small_and_described() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_000_000
    heads, card = read_heads(SHIPPED)
    for name in heads:
        described = card["heads"][name]
        assert described["data"] and described["licence"] and described["n_train"] > 1000 and described["seed"] >= 0


@pytest.mark.real_model
def test_shipped_heads_on_goemotions_comments_they_did_not_see(shipped: Scorer) -> None:
    path = Path(__file__).parents[2].parent / "shared" / "data" / "goemotions" / "dev.tsv"
    if not path.is_file():
        pytest.skip("GoEmotions is not beside this checkout")
    file = read_texts(path)
    assert file.labels is not None
    some = slice(0, 2000)
    scores = shipped.score(file.texts[some])
    quality = {q.label: q.auroc for q in label_quality(scores, file.labels[some], {e: e for e in GOEMOTIONS})}
    assert np.mean(list(quality.values())) >= 0.88
    assert quality["gratitude"] >= 0.97 and quality["anger"] >= 0.88 and quality["remorse"] >= 0.94
