"""Experiments on heads, neurons and circuits, on a model whose circuit was written into its weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from conftest import Command
from emotion_circuits.circuits.components import Head
from emotion_circuits.circuits.contributions import Reading
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.experiments._components.circuit import _unexplained, find_circuit, ranked
from emotion_circuits.experiments._components.patching import Patching
from emotion_circuits.experiments._components.screen import exact_heads
from emotion_circuits.experiments._heads import Subject
from emotion_circuits.experiments.circuit_report import CircuitReport
from emotion_circuits.experiments.heads_patch import patching_sentence
from emotion_circuits.prompts import load_prompts
from emotion_circuits.prompts.lexicon import emotion_words, list_lexicons
from emotion_circuits.scorers._words import read_words
from emotion_circuits.scorers.emotion_tokens import resolve_emotion_tokens
from emotion_circuits.types import Site
from planted_circuits import CONFIRMED, CONFIRMERS, MARKED, PLAIN, READER, SEEN, planted

EMOTION = "apology"
HEADS = 12
"""Per layer: enough for 19 and more other heads of nearly the same layer, so that one head can be confirmed."""
OPENERS = ("The parcel", "A cup", "The bus", "The dog", "My chair", "The letter", "Our table", "The book")
PLACES = ("on Tuesday.", "at noon.", "in the morning.", "at the weekend.", "near the window.")


def _tokenizer() -> PreTrainedTokenizerFast:
    """Words of the lexicons, the everyday list and the texts are mostly whole tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = [w for e in list_lexicons() for w in emotion_words(e)] + [*read_words("everyday")]
    corpus = [f"a {word}" for word in [*words, MARKED.strip(), PLAIN.strip()] for _ in range(3)]
    corpus += [f"{a} went{MARKED} and{PLAIN} {b}" for a in OPENERS for b in PLACES for _ in range(3)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=2600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False,
    ))  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def planted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model, whose circuit raises the words of an apology, as a Hugging Face folder."""
    tokenizer = _tokenizer()
    lm = planted(tokenizer, opponent=0.0, heads=HEADS).lm
    prefixes = [p for p in load_prompts("neutral_pool") if p.split == "fit"]
    tokens = resolve_emotion_tokens(lm, [EMOTION], prefixes)
    head = lm.model.get_output_embeddings().weight
    with torch.no_grad():
        head[:, [SEEN, CONFIRMED]] = 0.0
        for ids, sign in ((tokens.ids(EMOTION), 1.0), (tokens.neutral_ids(EMOTION), -1.0)):
            for column in (SEEN, CONFIRMED):
                head[list(ids), column] = sign
    folder = tmp_path_factory.mktemp("planted") / "planted"
    lm.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matched scenarios in three splits; the marked word is the emotion word."""
    path = tmp_path_factory.mktemp("texts") / "marked.jsonl"
    rows = []
    for i, (opener, place) in enumerate(itertools.product(OPENERS, PLACES)):
        split = ("fit", "fit", "dev", "test")[i % 4]
        for emotion, word in ((EMOTION, MARKED), ("neutral", PLAIN)):
            text = f"{opener} went{word} {place}"
            at = text.index(word) + 1
            spans = [[at, at + len(word) - 1]] if emotion == EMOTION else []
            rows.append({"schema": 1, "id": f"{emotion}-{i}", "text": text, "emotion": emotion, "scenario": f"s{i}",
                         "stratum": "explicit" if spans else "none", "end": ".", "spans": spans, "split": split,
                         "domain": "test", "source": "test", "language": "en"})  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def run(cli: Command, planted_folder: Path, texts: Path, results: Path) -> Any:
    """Runs one experiment on the planted model and gives its answer."""

    def call(name: str, *words: object) -> Any:
        return cli(
            "run", name, "--model", planted_folder, "--prompts", texts, "--directions.prompts", texts,
            "--directions.permutations", 99, "--directions.resamples", 200, "--resamples", 200, "--limit", 12,
            "--results", results, "--device", "cpu", "--json", "--quiet", *words,
        )  # fmt: skip

    return call


def test_the_screen_finds_and_confirms_the_planted_head(run: Any) -> None:
    found = run("heads.screen", "--top", 1).json
    assert (found["layers"], found["heads_per_layer"]) == (4, HEADS) and found["model"].startswith("planted")
    rows = found["scores"]
    assert len(rows) == 4 * HEADS
    assert set(rows[0]) == {
        "emotion", "layer", "head", "delta_attn", "emotion_mean_attn", "neutral_mean_attn", "samples_emotion",
        "samples_neutral", "direct", "ablation", "ci", "p_bh", "attribution",
    }  # fmt: skip
    for key, sign in (("ablation", 1), ("attribution", 1), ("delta_attn", -1)):
        best = min(rows, key=lambda r: sign * r[key])
        assert (best["layer"], best["head"]) == (READER.layer, READER.index), key
    best = min(rows, key=lambda r: r["ablation"])
    assert best["p_bh"] < 0.001 and best["ci"][1] < 0
    gates = found["gates"][EMOTION]
    assert gates["direct_error"] < 1e-4 and gates["attribution"]["valid"]
    assert {t["mode"] for t in found["confirmation"]} == {"resample", "mean", "zero"}
    resampled = found["confirmation"][0]
    assert resampled["components"] == [str(READER)] and resampled["change"] < 0
    assert resampled["confirmed"] and resampled["beaten"] == resampled["sets"] >= 19


def test_a_shortlist_finds_the_planted_head_too_and_says_what_was_not_ablated(run: Any, results: Path) -> None:
    words = ("--top", 1, "--exact", 4, "--random", 19, "--layer", 2, "--read-at", "last")
    found = run("heads.screen", *words).json
    measured = [r for r in found["scores"] if r["ablation"] is not None]
    assert len(found["scores"]) == 4 * HEADS and len(measured) == 8
    assert all(r["attribution"] is not None and r["direct"] is not None for r in found["scores"])
    best = min(measured, key=lambda r: r["ablation"])
    assert (best["layer"], best["head"]) == (READER.layer, READER.index)
    assert best["p_bh"] < 0.001, "heads that were not ablated count in the family"
    assert found["confirmation"][0]["components"] == [str(READER)] and found["confirmation"][0]["confirmed"]
    assert found["gates"][EMOTION]["attribution"]["checked"] == 8
    (section,) = [
        text for p in results.glob("*/*/heads.screen/*/section.json")
        if "--exact 0" in (text := p.read_text(encoding="utf-8"))
    ]  # fmt: skip
    table = next(t for t in json.loads(section)["tables"] if t["name"] == "heads-top")
    assert table["rows"][0]["reads"].split()[0] == MARKED.strip()


def test_ablating_the_planted_head_is_confirmed_and_another_one_is_not(run: Any) -> None:
    def tested(spec: str) -> Any:
        found = run("heads.ablate", "--head-spec", spec, "--texts", 3, "--max-tokens", 3).json
        assert len(found["baseline_texts"]) == len(found["ablation_texts"]) == 3
        assert f"embedded:{EMOTION}" in found["ablation_metrics"][EMOTION]
        return found["results"][0] | {"same": found["baseline_texts"] == found["ablation_texts"]}

    planted_head, other = tested("1:2"), tested("1:0")
    assert planted_head["confirmed"] and planted_head["change"] < 0 and planted_head["ci"][1] < 0
    assert not other["confirmed"] and other["change"] > planted_head["change"]
    assert not planted_head["same"], "the texts are those of the ablated model"


def test_patching_the_planted_head_recovers_the_endpoint(run: Any) -> None:
    for mode in ("result", "pattern_v"):
        words = ("--patch-mode", mode, "--texts", 2, "--max-tokens", 2, "--position", "last")
        found = run("heads.patch", "--head-spec", "1:2", *words, "--random", 19).json
        assert found["patch_mode"] == mode and len(found["patched_texts"]) == 2
        assert found["patched_texts"] != found["baseline_texts"], mode
        assert found["results"][0]["change"] > 0.5, mode


def test_saliency_finds_the_planted_neurons_and_ablation_confirms_them(run: Any) -> None:
    planted_neurons = {(n.layer, n.index) for n in CONFIRMERS}
    found = run("neurons.saliency", "--top", 2, "--confirm", "gradient").json
    top = {(r["layer"], r["neuron"]) for r in found["neurons"] if r["score"] == "gradient"}
    assert top == planted_neurons
    assert found["confirmation"][0]["confirmed"]
    ablated = run("neurons.ablate", "--neurons", "3:5,17", "--texts", 0).json
    assert ablated["results"][0]["confirmed"] and ablated["results"][0]["beaten"] > 95


def test_ov_qk_names_the_head_its_sources_and_how_qk_was_read(run: Any) -> None:
    words = ("--top", 2, "--texts", 2, "--max-tokens", 2, "--layer", 2, "--read-at", "last")
    found = run("circuit.ov-qk", *words, "--random", 19).json["results"][0]
    assert found["heads"][0] == str(READER)
    assert found["qk_method"] == "measured"
    first = next(r for r in found["source_tokens"] if r["head"] == str(READER) and r["source"] == "prompts")
    assert first["tokens"].split()[0] == MARKED.strip()


def test_the_circuit_holds_the_planted_head_and_is_faithful(run: Any, results: Path) -> None:
    found = run("circuit.report", "--size", 4, "--random", 19).json["results"][0]
    assert str(READER) in {n["node"] for n in found["nodes"]}
    assert found["faithfulness"] > 0.8 and found["cmd"] < 0.3
    (graph,) = results.glob("*/*/circuit.report/*/graph-apology.json")
    assert json.loads(graph.read_text(encoding="utf-8"))["metadata"]["slug"].endswith(EMOTION)
    (report,) = results.glob("*/*/circuit.report/*/circuits.md")
    assert "| 1:2 |" in report.read_text(encoding="utf-8")


def test_a_circuit_of_a_shortlist_and_a_report_that_draws_its_edges(
    run: Any, cli: Command, results: Path, texts: Path
) -> None:
    words = ("--size", 4, "--random", 19, "--exact", 6, "--contexts", 0, "--edges", "eap-ig")
    found = run("circuit.report", *words, "--profile", texts).json["results"][0]
    assert found["exactly_ablated"] == 12 and found["attribution"]["checked"] == 12 and found["attribution"]["valid"]
    assert found["nodes"][0]["node"] == str(READER) and found["faithfulness"] > 0.8
    assert set(found["selected_share"]) == {n["node"] for n in found["nodes"]}
    assert {e["target"] for e in found["edges"]} >= {"endpoint"} and len(found["edges"]) >= 4
    (section,) = [
        json.loads(text) for p in results.glob("marked/*/circuit.report/*/section.json")
        if "12 nodes were ablated exactly" in (text := p.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert next(f for f in section["figures"] if f["kind"] == "circuit")["options"]["edges"]
    page = Path(cli("report", "--profile", texts, "--results", results, "--json", "--quiet").json["html"])
    assert "Strongest edges" in page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benches() -> dict[str, tuple[Any, Subject]]:
    """The planted model with pairs whose endpoint differs as it should, the other way, and both ways."""
    plant = planted(_tokenizer(), heads=HEADS)
    bench: Any = SimpleNamespace(
        context=SimpleNamespace(lm=plant.lm, seed=0), params=CircuitReport.Params(resamples=200),
        saved=lambda name, compute: {k: np.asarray(v) for k, v in compute().items()},
    )  # fmt: skip
    back = [Pair(p.donor, p.clean) for p in plant.pairs]
    pairs = {"clear": plant.pairs, "reversed": back, "mixed": (*plant.pairs[:4], *back[4:])}
    reading = Reading(Site("resid_post", 2), np.eye(plant.lm.d_model)[SEEN])
    return {k: (bench, Subject(EMOTION, (), tuple(v), plant.endpoint, reading)) for k, v in pairs.items()}


@pytest.mark.parametrize(("pairs", "explained"), [("clear", True), ("reversed", False), ("mixed", False)])
def test_where_there_is_no_effect_no_circuit_is_looked_for(benches: Any, pairs: str, explained: bool) -> None:
    bench, subject = benches[pairs]
    found = _unexplained(bench, subject, bench.params)
    assert (found is None) is explained
    if found is not None:
        assert found.sentence().startswith(f"{EMOTION}: no circuit: ") and found.ci[0] <= 0
        report = find_circuit(bench, subject, bench.params)
        assert report == found, "nothing is ranked"


@pytest.mark.parametrize(("pairs", "unit"), [("clear", "share"), ("reversed", "nats"), ("mixed", "nats")])
def test_patching_is_in_nats_where_there_is_nothing_to_be_a_share_of(benches: Any, pairs: str, unit: str) -> None:
    bench, subject = benches[pairs]
    row = Patching(bench, subject, (READER,), "result", "last").endpoint(19)
    assert row["unit"] == unit and row["ci"][0] <= row["change"] <= row["ci"][1]
    assert (row["beaten"] == 19) is (pairs == "clear") and row["confirmed"] is (pairs == "clear")
    assert ("no share" in patching_sentence(row, 1, "result")) is (unit == "nats")


def test_a_shortlist_holds_the_estimated_supporters_and_random_others() -> None:
    estimate = np.array([[-3.0, 5.0, 0.1, 0.4], [-2.0, 0.2, 0.3, 0.5]])
    heads = exact_heads(estimate, 2, 0)
    assert {Head(0, 0), Head(1, 0)} < {*heads} and len({*heads}) == 4
    assert len({exact_heads(estimate, 2, seed) for seed in range(20)}) > 5
    assert exact_heads(estimate, 0, 0) == tuple(Head(layer, i) for layer in range(2) for i in range(4))


def test_estimates_that_do_not_hold_rank_behind_every_exact_change() -> None:
    change, measured = np.array([0.1, -5.0, -0.3, 4.0]), np.array([True, False, True, False])
    assert ranked(change, measured, estimates_hold=True).tolist() == [1, 3, 2, 0]
    assert ranked(change, measured, estimates_hold=False).tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("name", "words", "rows", "written"),
    [
        ("heads.screen", ["--random", 19], 12 * 4 * HEADS + 10 * 19, 0),
        ("heads.screen", ["--random", 19, "--exact", 4], 12 * 8 + 10 * 19, 0),
        ("neurons.saliency", ["--random", 99], 10 * 99, 0),
        ("heads.ablate", ["--head-spec", "1:2", "--random", 19, "--texts", 3], 10 * 19, 2 * 3),
        ("neurons.ablate", ["--neurons", "3:5", "--random", 19, "--texts", 0], 10 * 19, 0),
        ("heads.patch", ["--head-spec", "1:2", "--random", 19, "--texts", 3], 10 * 19, 2 * 3),
        ("circuit.ov-qk", ["--random", 19, "--texts", 2], 10 * 19, 2 * 2),
        ("circuit.report", ["--size", 4, "--random", 20], 12 * 4 * (HEADS + 1) + 10 * (10 + 20 + 22 + 24), 0),
        ("circuit.report", ["--size", 4, "--random", 19, "--edges", "eap-ig"], 12 * 60 + 10 * 19, 0),
    ],
)
def test_dry_run_counts_ablations(run: Any, name: str, words: list[object], rows: int, written: int) -> None:
    """``rows``: ablated ones, which are most of what is run; clean and donor runs come on top."""
    cell = run(name, "--dry-run", *words).json["cells"][-1]
    assert cell["experiment"] == name and cell["counted"] and cell["seconds"] > 0
    assert rows < cell["scored"] <= rows + 12 * 20 + 10 * 20 + 12 * 4 * (HEADS + 1) * ("eap-ig" in words) * 2
    assert cell["written"] == written


@pytest.mark.parametrize("spec", ["12:99", "a:b", "1:2,1:2", "1:3-0"])
def test_wrong_heads_get_the_grid(run: Any, spec: str) -> None:
    for name in ("heads.ablate", "heads.patch"):
        run(name, "--head-spec", spec).refused(2, f"4 layers × {HEADS} heads")


def test_wrong_neurons_get_the_grid(run: Any) -> None:
    run("neurons.ablate", "--neurons", "3:99").refused(2, "24 neurons per layer")


def test_heads_of_two_models_are_matched_or_not(cli: Command, planted_folder: Path, texts: Path, results: Path) -> None:
    found = cli(
        "run", "heads.match", "--source", planted_folder, "--target", planted_folder, "--prompts", texts,
        "--directions.prompts", texts, "--directions.permutations", 99, "--directions.resamples", 200, "--resamples",
        200, "--limit", 12, "--size", 1, "--layer", 2, "--read-at", "last",
        "--results", results, "--device", "cpu", "--json", "--quiet",
    ).json  # fmt: skip
    (row,) = found["results"]
    assert row["depth_distance"] == 0 and row["role_distance"] < 1e-9
    assert row["p_role"] < 0.1 and [str(READER), str(READER)] in row["pairs"]
