"""The verb ``score``: rows, flags, AUROC, cards, training, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.cli import main
from emotion_circuits.models.sources.local import LocalModel


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["score", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"text": "Thank you so much, I am grateful.", "emotion": "gratitude"},
        {"text": "Thanks a lot for the lift.", "emotion": "gratitude"},
        {"text": "I am furious about this.", "emotion": "anger"},
        {"text": "I am sorry that I broke it.", "emotion": "apology", "prompt": "Thank you"},
        {"text": "Vielen Dank für Ihre Hilfe, das war sehr nett.", "emotion": "gratitude"},
        {"text": "", "emotion": "neutral"},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_has_a_row_per_text_with_every_column_and_flag(command: Command, texts: Path) -> None:
    code, out, err = command("--scorer", "lexicon", "--on", texts, "--json")
    found = json.loads(out)
    assert code == 0 and found["n"] == len(found["rows"]) == 6
    assert found["rows"][0]["scores"]["gratitude"] > 0 and found["rows"][3]["scores"]["gratitude"] == 0
    assert set(found["rows"][0]["scores"]) == set(found["card"]["labels"])
    assert [row["language_flag"] for row in found["rows"]] == ["", "", "", "", "words", ""]
    assert [row["empty"] for row in found["rows"]] == [False] * 5 + [True]
    assert found["flagged"] == 1 and "1 of 6 texts do not look English" in err


def test_labels_give_auroc_one_vs_rest_with_the_emotions_column(command: Command, texts: Path) -> None:
    found = json.loads(command("--scorer", "lexicon", "--on", texts, "--json")[1])["auroc"]
    assert found["labels"]["anger"] == {"auroc": 1.0, "n": 1, "rest": 5, "column": "anger"}
    assert found["labels"]["apology"]["auroc"] == 1.0
    assert found["labels"]["gratitude"]["auroc"] == pytest.approx((2 + 0.5) / 3)  # the German thanks tie with the rest
    assert found["macro"] == pytest.approx((1 + 1 + 2.5 / 3) / 3)
    assert found["not_evaluated"] == ["neutral"]


def test_tables_fit_80_columns(command: Command, texts: Path) -> None:
    code, out, _ = command("--scorer", "lexicon", "--on", texts)
    assert code == 0 and "macro AUROC over 3 labels" in out and "words" in out
    assert max(map(len, out.splitlines())) <= 80


def test_list_and_card(command: Command) -> None:
    listed = {row["name"] for row in json.loads(command("--list", "--json")[1])["scorers"]}
    assert {"lexicon", "embedded", "hub:sentiment", "hub:politeness", "hub:go-emotions", "hub:sst2"} <= listed
    assert {"logits:MODEL", "fluency:MODEL"} <= listed
    code, out, _ = command("--scorer", "lexicon", "--card")
    assert code == 0 and "licence" in out and "vaderSentiment" in out
    assert max(map(len, command("--list")[1].splitlines())) <= 80


def test_a_language_model_reads_the_texts(command: Command, texts: Path, worded: Path) -> None:
    fluent = json.loads(command("--scorer", f"fluency:{worded}", "--on", texts, "--json")[1])
    assert set(fluent["rows"][0]["scores"]) == {"log_perplexity", "rep4", "distinct1", "distinct2", "tokens", "words"}
    assert fluent["rows"][0]["scores"]["log_perplexity"] > 0 and fluent["rows"][5]["scores"]["log_perplexity"] is None
    endpoint = json.loads(command("--scorer", f"logits:{worded}", "--on", texts, "--json")[1])
    assert {"gratitude", "anger", "apology"} <= set(endpoint["rows"][0]["scores"])
    assert set(endpoint["auroc"]["labels"]) >= {"gratitude", "anger", "apology"}
    refused(command("--scorer", "fluency:no-such-model", "--on", texts, "--offline"), 1, "no-such-model")
    refused(command("--scorer", "logits:", "--on", texts), 2, "names no model")


def refused(answer: tuple[int, str, str], code: int, part: str) -> None:
    found, out, err = answer
    assert found == code and out == "" and part in err and "\n  → " in err and "Traceback" not in err, answer


def test_refusals(command: Command, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    refused(command("--on", texts), 2, "no evaluator is named")
    refused(command("--scorer", "lexicon"), 2, "no file to score")
    refused(command("--scorer", "lexico", "--on", texts), 2, "unknown scorer 'lexico'")
    refused(command("--scorer", "lexicon", "--on", tmp_path / "no.jsonl"), 2, "there is no file")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    refused(command("--scorer", "lexicon", "--on", empty), 2, "empty")
    refused(command("--scorer", "hub:sst2", "--on", texts, "--offline"), 1, "evaluator hub:sst2 is not available")
    refused(command("train", "--to", tmp_path / "heads"), 2, "no file to train on")


@pytest.mark.real_model
def test_train_writes_heads_that_score_uses(
    command: Command, tmp_path: Path, embedded: Callable[[str], LocalModel]
) -> None:
    embedded("minilm")
    comments = tmp_path / "comments.csv"
    kinds = {"joy": "I am so happy with number {}", "anger": "I hate number {} so much"}
    comments.write_text("text,emotion\n" + "".join(f"{kinds[e].format(i)},{e}\n" for i in range(60) for e in kinds))
    requests = tmp_path / "requests.csv"
    requests.write_text(
        "Request,Normalized Score\n"
        + "".join(
            f"Could you please look at page {i}?,{1 + i / 100}\nWhy delete page {i}?,{-1 - i / 100}\n"
            for i in range(40)
        )
    )
    to = tmp_path / "heads"
    code, out, err = command(
        "train", "--emotions", comments, "--politeness", requests, "--to", to, "--json", "--quiet", "--device", "cpu"
    )
    assert code == 0, err
    card = json.loads(out)["heads"]
    assert card["emotions"]["held_out"]["n"] + card["emotions"]["n_train"] == 120
    assert card["politeness"]["cross_validated"]["macro_auroc"] > 0.9
    code, out, _ = command("--scorer", "embedded", "--heads", to, "--on", comments, "--json", "--device", "cpu")
    assert code == 0
    found = json.loads(out)
    assert found["auroc"]["labels"]["joy"]["auroc"] > 0.9 and "politeness" in found["rows"][0]["scores"]
    refused(command("--scorer", "embedded", "--heads", tmp_path, "--on", comments), 2, "no folder of heads")
