"""A small tokenizer that knows the emotions' words, so that steering's endpoint finds its tokens on tiny models."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from emotion_circuits.prompts import load_prompts
from emotion_circuits.prompts.lexicon import emotion_words, list_lexicons
from emotion_circuits.scorers._words import read_words


def worded_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the lexicons and the everyday list are mostly whole tokens: the endpoint finds its tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = [w for e in list_lexicons() for w in emotion_words(e)] + list(read_words("everyday"))
    corpus = [f"a {word}" for word in words for _ in range(3)] + [p.text for p in load_prompts("neutral_pool")[:12]]
    trainer = trainers.BpeTrainer(
        vocab_size=2500, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", bos_token="<eos>")
