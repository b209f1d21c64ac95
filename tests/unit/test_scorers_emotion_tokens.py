"""Which tokens the primary endpoint counts, on tokenizers of both leading-space kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from emotion_circuits.errors import UsageError
from emotion_circuits.models import LM
from emotion_circuits.prompts import load_prompts
from emotion_circuits.prompts.lexicon import emotion_words, find_any_emotion_word, list_lexicons
from emotion_circuits.scorers import Continuation
from emotion_circuits.scorers._words import read_words
from emotion_circuits.scorers.emotion_tokens import TokenSets, resolve_emotion_tokens
from emotion_circuits.scorers.logits import LogitsScorer
from emotion_circuits.types import Prompt
from tiny_models import tiny_lm

EMOTIONS = ("gratitude", "anger", "apology")
PREFIXES = tuple(Prompt(f"n{i}", p.text) for i, p in enumerate(load_prompts("neutral_pool")[:12]))
WORDS = [w for e in list_lexicons() for w in emotion_words(e)] + [*read_words("everyday"), "mad", "madam", "the", "a"]


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Words of the lexicons and the everyday list are mostly whole tokens, with ``Ġ`` or ``▁`` in front."""
    inner = Tokenizer(models.BPE(unk_token=None if kind == "byte-level" else "<unk>"))
    special = ["<eos>"] if kind == "byte-level" else ["<eos>", "<unk>"]
    alphabet = []
    if kind == "byte-level":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        inner.normalizer = normalizers.Replace(" ", "▁")
        inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        inner.decoder = decoders.Replace("▁", " ")
    corpus = [f"a {word}" for word in WORDS for _ in range(3)] + [p.text for p in PREFIXES]
    inner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=2500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", bos_token="<eos>")


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def lm(request: pytest.FixtureRequest) -> LM:
    return tiny_lm("gpt2", tokenizer(request.param))


@pytest.fixture(scope="module")
def sets(lm: LM) -> TokenSets:
    return resolve_emotion_tokens(lm, EMOTIONS, PREFIXES)


def test_tokens_are_first_tokens_of_the_lexicon_with_their_space(lm: LM, sets: TokenSets) -> None:
    for emotion in EMOTIONS:
        assert len(sets.ids(emotion)) >= 3
        for pair in sets.pairs[emotion]:
            assert pair.token.startswith(" ") and pair.words
            for word in pair.words:
                assert word in emotion_words(emotion) and word.startswith(pair.token.strip())
    assert " thank" in {pair.token for pair in sets.pairs["gratitude"]}
    assert " sorry" in {pair.token for pair in sets.pairs["apology"]}


def test_no_token_belongs_to_two_emotions_or_to_both_sides(lm: LM) -> None:
    found = resolve_emotion_tokens(lm, list_lexicons(), PREFIXES)
    own = [token for emotion in found.emotions for token in found.ids(emotion)]
    assert len(own) == len(set(own))
    assert not set(own) & {token for emotion in found.emotions for token in found.neutral_ids(emotion)}


def test_neutral_tokens_are_as_many_distinct_and_near_in_log_probability(sets: TokenSets) -> None:
    rng = np.random.default_rng(0)
    for emotion, pairs in sets.pairs.items():
        neutral = sets.neutral_ids(emotion)
        assert len(neutral) == len(set(neutral)) == len(sets.ids(emotion))
        own = np.array([pair.log_probability for pair in pairs])
        other = np.array([pair.neutral_log_probability for pair in pairs])
        # The pairing is the best one: no other order of the same partners is nearer.
        assert all(np.abs(own - other).sum() <= np.abs(own - rng.permutation(other)).sum() + 1e-9 for _ in range(50))


def test_log_probability_is_the_mean_over_all_beginnings(lm: LM, sets: TokenSets) -> None:
    pair = sets.pairs["gratitude"][0]
    values = []
    for encoded in lm.encode(PREFIXES):
        with torch.inference_mode():
            logits = lm.model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        values.append(logits[encoded.n_prefix :, pair.id])
    assert pair.log_probability == pytest.approx(float(torch.cat(values).mean()), abs=1e-4)


def test_split_by_the_words_of_fitting_texts_keeps_pairs_together(sets: TokenSets) -> None:
    seen, unseen = sets.split(["Thank you, I am SORRY.", "A thankless sorryness does not count as appreciating"])
    assert "thank" in {w for pair in seen.pairs["gratitude"] for w in pair.words}
    assert {pair.token for pair in seen.pairs["apology"]} == {" sorry"}
    assert "anger" not in seen.pairs and sets.pairs["anger"] == unseen.pairs["anger"]
    for emotion in EMOTIONS:
        both = [*seen.pairs.get(emotion, ()), *unseen.pairs.get(emotion, ())]
        assert sorted(pair.id for pair in both) == sorted(sets.ids(emotion))
        assert {(p.id, p.neutral_id) for p in both} == {(p.id, p.neutral_id) for p in sets.pairs[emotion]}


def test_what_is_saved_is_json_and_names_the_tokens(sets: TokenSets) -> None:
    saved = json.loads(json.dumps(sets.to_dict()))
    assert saved["tokenizer"] and set(saved["emotions"]) == set(EMOTIONS)
    assert {"id", "token", "words", "neutral_token", "log_probability"} <= set(saved["emotions"]["anger"][0])


def test_the_same_model_gives_the_same_sets(lm: LM, sets: TokenSets) -> None:
    assert resolve_emotion_tokens(lm, EMOTIONS, PREFIXES) == sets


def test_the_endpoint_of_any_text_is_its_formula(lm: LM, sets: TokenSets) -> None:
    scorer = LogitsScorer(lm, sets, rows=2)
    given = [Continuation(" the bus left", "He said"), Continuation("The parcel came"), Continuation(" ", "He said")]
    found = scorer.score(given)
    for i, whole in enumerate(["He said the bus left", "The parcel came"]):
        ids = torch.tensor([lm.encode([Prompt("x", whole)])[0].ids])
        with torch.inference_mode():
            logits = lm.model(input_ids=ids).logits[0, -1]
        for emotion in EMOTIONS:
            own, neutral = (logits[list(ids)].logsumexp(-1) for ids in (sets.ids(emotion), sets.neutral_ids(emotion)))
            assert found[emotion][i] == pytest.approx(float(own - neutral), abs=2e-4)
    assert all(np.isnan(found[e][2]) for e in EMOTIONS)
    assert scorer.emotion_column("apology") == "apology" and scorer.emotion_column("awe") is None
    assert "gratitude" in scorer.card().to_dict()["details"]["emotions"]


def test_refusals(lm: LM, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    with pytest.raises(UsageError, match="no neutral texts"):
        resolve_emotion_tokens(lm, EMOTIONS, [])
    with pytest.raises(UsageError, match="saudade"):
        resolve_emotion_tokens(lm, ["saudade"], PREFIXES)
    poor = tiny_lm("gpt2", tokenizers["byte-level"])  # a few hundred merges: no whole words
    with pytest.raises(UsageError, match="'joy' has only 0 first tokens"):
        resolve_emotion_tokens(poor, ["joy"], PREFIXES)
    with pytest.raises(UsageError, match="unknown emotion"):
        resolve_emotion_tokens(lm, ["anger"], PREFIXES).ids("joy")


def test_everyday_words_name_no_emotion_and_are_no_function_words() -> None:
    words = read_words("everyday")
    assert len(words) >= 380 and len(set(words)) == len(words)
    assert not [word for word in words if find_any_emotion_word(word)]
    assert not set(words) & set(read_words("function_words_english"))
