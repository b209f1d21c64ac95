"""Fixtures that several test folders share: tokenizers, tiny random models, and the embedded real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from emotion_circuits.errors import ModelError
from emotion_circuits.models import LM, load_lm
from emotion_circuits.models.sources import resolve_source
from emotion_circuits.models.sources.local import LocalModel
from tiny_models import byte_level_tokenizer, metaspace_tokenizer, tiny_lm

TinyModels = Callable[..., LM]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices gain nothing from threads, which wait for each other for ages on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_data_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sets and lists of words that whoever runs the tests has built are none of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))
        yield


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """Small tokenizers of both leading-space kinds: ``byte-level`` (Ġ, no BOS) and ``metaspace`` (▁, BOS)."""
    return {"byte-level": byte_level_tokenizer(), "metaspace": metaspace_tokenizer()}


@pytest.fixture(scope="session")
def tiny(tokenizers: dict[str, PreTrainedTokenizerFast]) -> TinyModels:
    """``tiny(architecture, tokenizer="byte-level", attention=None)``, made once; tests must not change these models."""

    @cache
    def make(architecture: str, tokenizer: str = "byte-level", attention: str | None = None) -> LM:
        return tiny_lm(architecture, tokenizers[tokenizer], attention=attention)

    return make


@pytest.fixture(scope="session")
def embedded() -> Callable[[str], LocalModel]:
    """The folder of an embedded model, fetched once through the package's own code; skips where that is impossible."""

    @cache
    def find(alias: str) -> LocalModel:
        try:
            return resolve_source(alias)
        except ModelError as error:
            pytest.skip(f"{alias} is not available here: {error.what}")

    return find


@pytest.fixture(scope="session")
def smollm2(embedded: Callable[[str], LocalModel]) -> LM:
    """SmolLM2-135M with real weights on the CPU, shared by all tests that only read."""
    embedded("smollm2-135m")
    return load_lm("smollm2-135m", device="cpu")
