"""Local folders: what is accepted, what is refused by name, and how a folder is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models.sources import resolve_source
from emotion_circuits.models.sources.folder import check_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "my-model")


def make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": torch.ones(10, 10), "b": torch.zeros(3)}, folder / "model.safetensors")
    return folder


def test_a_complete_folder_is_used_where_it_is(folder: Path) -> None:
    local = resolve_source(str(folder))
    assert local.folder == folder
    assert local.source == f"folder {folder}"
    assert local.revision is None
    assert not local.dequantised
    assert local == resolve_source(folder)


def test_two_folders_of_one_name_have_different_names(tmp_path: Path) -> None:
    first, second = make_folder(tmp_path / "a" / "checkpoint-500"), make_folder(tmp_path / "b" / "checkpoint-500")
    names = {resolve_source(path).name for path in (first, second)}
    assert len(names) == 2
    assert all(name.startswith("checkpoint-500-") and "--" not in name for name in names)


def test_an_alias_is_the_known_model_and_a_path_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    assert resolve_source("./gpt2").folder == tmp_path / "gpt2"
    with pytest.raises(ModelError, match="offline mode"):
        resolve_source("gpt2", offline=True)


def test_a_truncated_file_is_named_with_both_sizes(folder: Path) -> None:
    weights = folder / "model.safetensors"
    body = weights.read_bytes()
    weights.write_bytes(body[:-100])
    with pytest.raises(ModelError, match=rf"model.safetensors is truncated: {len(body) - 100:,} bytes.*{len(body):,}"):
        resolve_source(folder)
    assert weights.exists(), "the user's own file is never removed"


@given(cut=st.integers(min_value=0, max_value=411 + 8))
def test_no_truncation_passes(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    save_file({"a": torch.ones(100)}, path)
    body = path.read_bytes()
    path.write_bytes(body[: min(cut, len(body) - 1)])
    with pytest.raises(ModelError, match=r"truncated|not a safetensors"):
        check_safetensors(path)


@pytest.mark.parametrize(
    "junk", [b"", b"hello", b"\xff" * 64, b"<html>not found</html>" * 10, b"\x02" + b"\0" * 7 + b"[]"]
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, junk: bytes) -> None:
    (folder / "model.safetensors").write_bytes(junk)
    with pytest.raises(ModelError, match=r"model\.safetensors (is|has)"):
        resolve_source(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files.*model-00002-of-00002"):
        resolve_source(folder)


def test_pickle_weights_are_refused_unopened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match="pickle only") as caught:
        resolve_source(folder)
    assert "save_pretrained" in caught.value.fix


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")],
)
def test_an_incomplete_folder_says_what_it_lacks(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        resolve_source(folder)


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        resolve_source(folder)


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "a/b/c", "missing.gguf", "~/no-such-model-folder"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(path: str) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        resolve_source(path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"neither a model folder nor a \.gguf file"):
        resolve_source(tmp_path / "notes.txt")


def test_a_local_path_has_no_revision(folder: Path) -> None:
    with pytest.raises(UsageError, match="no revision 'main'"):
        resolve_source(folder, revision="main")
