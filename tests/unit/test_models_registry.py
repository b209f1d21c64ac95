"""The registry file, its names, and the cache folder."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.models.cache import build_entry, cache_root, clean, list_entries, models_folder
from emotion_circuits.models.registry import embedded_aliases, find_entry, load_registry, model_slug

NAMED_IN_THE_PLAN = {
    "gpt2": "gpt2",
    "pythia-160m": "EleutherAI/pythia-160m",
    "gpt-neo-125m": "EleutherAI/gpt-neo-125M",
    "llama3_8b": "meta-llama/Meta-Llama-3.1-8B",
    "gemma3_12b": "google/gemma-3-12b-it",
    "qwen3_8b": "Qwen/Qwen3-8B-Base",
}


@pytest.mark.parametrize(("alias", "hub_id"), NAMED_IN_THE_PLAN.items())
def test_the_plans_models_have_the_plans_ids(alias: str, hub_id: str) -> None:
    assert load_registry()[alias].hub[0] == hub_id
    assert model_slug(hub_id) == alias


def test_every_name_leads_to_one_entry() -> None:
    names = [name for entry in load_registry().values() for name in {entry.name, *entry.hub}]
    assert all(find_entry(name) is not None for name in names)
    for entry in load_registry().values():
        assert {find_entry(name) for name in (entry.name, *entry.hub)} == {entry}
        assert model_slug(entry.name) == entry.name
        assert "--" not in entry.name, "two dashes separate the models of a pair in result paths"


@pytest.mark.parametrize("spelling", ["gemma_3_270m", "Gemma-3-270M", "gemma-3_270m", "google/gemma-3-270m"])
def test_spellings_of_an_alias(spelling: str) -> None:
    entry = find_entry(spelling)
    assert entry is not None
    assert entry.name == "gemma-3-270m"


def test_unknown_names_have_no_entry() -> None:
    assert find_entry("gpt5") is None


def test_models_that_need_no_hub() -> None:
    assert embedded_aliases() == ["smollm2-135m", "gemma-3-270m"]
    assert load_registry()["minilm"].role == "encoder"
    for entry in load_registry().values():
        assert ("wheel" in entry.sources) == (entry.wheel is not None)
        if entry.wheel is not None:
            assert (entry.wheel.kind == "gguf") == (entry.wheel.sha256 is not None)


@pytest.mark.parametrize("alias", ["gpt2", "pythia-160m", "gpt-neo-125m", "smollm2-135m"])
def test_models_without_bos_have_a_prefix_token(alias: str) -> None:
    assert load_registry()[alias].prefix_token == "<|endoftext|>"


@given(st.text(min_size=1, max_size=40))
def test_slugs_are_safe_folder_names(name: str) -> None:
    slug = model_slug(name)
    assert re.fullmatch(r"[a-z0-9_.-]+", slug)
    assert "--" not in slug
    assert slug not in {".", ".."}
    assert not slug.startswith(".")


def test_the_cache_folder_is_the_argument_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_CACHE", str(tmp_path / "environment"))
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert cache_root() == tmp_path / "environment"
    monkeypatch.delenv("EMOTION_CIRCUITS_CACHE")
    assert cache_root().name == "emotion-circuits"


def add_entry(cache: Path, key: str, name: str) -> Path:
    def build(target: Path, _scratch: Path) -> dict[str, str]:
        (target / "model.safetensors").write_bytes(b"x" * 1000)
        return {"name": name, "source": f"test {name}"}

    build_entry(models_folder(cache) / key, build, needed_bytes=10, purpose="testing")
    return models_folder(cache) / key


def test_entries_are_listed_with_their_sizes(tmp_path: Path) -> None:
    assert list_entries(tmp_path) == []
    add_entry(tmp_path, "b-1", "b")
    add_entry(tmp_path, "a-1", "a")
    (tmp_path / "models" / "half").mkdir()
    entries = list_entries(tmp_path)
    assert [(entry.key, entry.name, entry.source) for entry in entries] == [
        ("a-1", "a", "test a"), ("b-1", "b", "test b"),
    ]  # fmt: skip
    assert all(entry.bytes > 1000 for entry in entries)


def test_cleaning_removes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    first, second = add_entry(tmp_path, "a-1", "a"), add_entry(tmp_path, "a-2", "a")
    other = add_entry(tmp_path, "b-1", "b")
    assert [entry.key for entry in clean(["a-1"], tmp_path)] == ["a-1"]
    assert not first.exists()
    assert second.exists()
    assert [entry.key for entry in clean(["a"], tmp_path)] == ["a-2"]
    assert other.exists()
    assert [entry.key for entry in clean(None, tmp_path)] == ["b-1"]
    assert list_entries(tmp_path) == []


def test_cleaning_an_unknown_name_removes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is empty"):
        clean(["a"], tmp_path)
    add_entry(tmp_path, "a-1", "a")
    with pytest.raises(UsageError, match="unknown cached model 'c'"):
        clean(["a", "c"], tmp_path)
    assert len(list_entries(tmp_path)) == 1


def test_an_unwritable_cache_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="failed while writing") as caught:
        add_entry(tmp_path, "a-1", "a")
    assert "EMOTION_CIRCUITS_CACHE" in caught.value.fix


def test_an_entry_that_two_want_at_once_is_built_once(tmp_path: Path) -> None:
    together, built = threading.Barrier(4), []

    def build(target: Path, _scratch: Path) -> dict[str, str]:
        built.append(target)
        return {"name": "a"}

    def want(_number: int) -> dict[str, str]:
        together.wait()
        return build_entry(models_folder(tmp_path) / "a-1", build, needed_bytes=10, purpose="testing")

    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(want, range(4)))
    assert records == [{"name": "a"}] * 4
    assert len(built) == 1
