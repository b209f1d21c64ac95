"""GGUF files: an exact conversion, once, and clear refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from emotion_circuits.errors import ModelError, StoreError
from emotion_circuits.models.cache import list_entries
from emotion_circuits.models.sources import gguf, resolve_source
from emotion_circuits.models.sources.gguf import check_gguf
from tiny_gguf import tiny_llama, write_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_conversion_keeps_logits_and_token_ids(gguf_file: Path, tmp_path: Path) -> None:
    local = resolve_source(gguf_file, cache=tmp_path)
    ids = torch.tensor([[5, 9, 100, 260]])
    with torch.no_grad():
        converted = AutoModelForCausalLM.from_pretrained(local.folder)(ids).logits
        assert torch.equal(converted, tiny_llama()(ids).logits)
    text = "thanks, naïve 😀"
    tokenizer = AutoTokenizer.from_pretrained(local.folder)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("thank").input_ids[0] == tokenizer.convert_tokens_to_ids("than")
    original = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    assert original(text).input_ids == tokenizer(text).input_ids


def test_a_file_is_converted_once_whatever_its_name(gguf_file: Path, tmp_path: Path) -> None:
    first = resolve_source(gguf_file, cache=tmp_path)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_source(str(gguf_file), cache=tmp_path) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    assert len(list_entries(tmp_path)) == 1
    assert len(first.revision or "") == 64
    assert not first.dequantised, "float32 tensors were never quantised"


def test_other_users_of_a_shared_cache_can_read_it(gguf_file: Path, tmp_path: Path) -> None:
    folder = resolve_source(gguf_file, cache=tmp_path).folder
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("keep", [0.999, 0.6, 0.3, 0.05, 0.001])
def test_a_truncated_file_is_refused_and_leaves_nothing(gguf_file: Path, tmp_path: Path, keep: float) -> None:
    body = gguf_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(body[: int(len(body) * keep)])
    with pytest.raises(ModelError, match=r"cut\.gguf is truncated"):
        resolve_source(cut, cache=tmp_path / "cache")
    assert list_entries(tmp_path / "cache") == []
    assert cut.exists(), "the user's own file is never removed"


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    with pytest.raises(ModelError, match="not a GGUF file"):
        resolve_source(tmp_path / "page.gguf", cache=tmp_path / "cache")


def test_the_disk_that_a_conversion_asks_for_is_what_it_takes(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain float32 weights take as much as before, not eight times as much; bfloat16 half of it."""
    weights = check_gguf(gguf_file).weights
    assert weights == sum(p.numel() for p in tiny_llama().parameters())
    asked: list[int] = []
    monkeypatch.setattr(gguf, "build_entry", lambda *a, needed_bytes, **k: asked.append(needed_bytes) or {"dtype": "x"})
    resolve_source(gguf_file, cache=tmp_path)
    monkeypatch.setattr(gguf, "FULL_PRECISION_BYTES", 10)
    resolve_source(gguf_file, cache=tmp_path)
    assert [n - gguf._TOKENIZER_BYTES for n in asked] == [4 * weights, 2 * weights]


def test_too_little_disk_is_said_before_converting(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StoreError, match="are free"):
        resolve_source(gguf_file, cache=tmp_path)
