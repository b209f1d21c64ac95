"""Hub sources against a fake hub that the real hub library talks to over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from emotion_circuits.errors import ModelError, StoreError, UsageError
from emotion_circuits.models.preflight import weight_bytes, weight_bytes_of_source
from emotion_circuits.models.sources import resolve_source, version_of
from fakehub import TOKEN, FakeHub, Repository, serve

pytestmark = pytest.mark.network_service

TOKENIZER = b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def whole(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return saved(llama, tmp_path_factory.mktemp("whole"), "10GB")


@pytest.fixture(scope="module")
def sharded(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return saved(llama, tmp_path_factory.mktemp("sharded"), "8KB")


def saved(model: LlamaForCausalLM, folder: Path, shard_size: str) -> dict[str, bytes]:
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer.json").write_bytes(TOKENIZER)
    return Repository.of_folder(folder).files


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("EMOTION_CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return tmp_path / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve({}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    return url


def same_logits(folder: Path, model: LlamaForCausalLM) -> bool:
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    with torch.no_grad():
        return torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, model(ids).logits)


def test_a_repository_is_fetched_once_and_loads_bit_for_bit(
    hub: FakeHub, whole: dict[str, bytes], llama: LlamaForCausalLM
) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole)
    local = resolve_source("Org/Tiny")
    assert local.name == "org__tiny"
    assert local.revision == hub.repositories["Org/Tiny"].commit
    assert local.source == f"hub Org/Tiny@{local.revision[:12]}"
    assert not local.dequantised
    assert same_logits(local.folder, llama)
    assert any(request.startswith("GET /cdn/") for request in hub.requests), "weights come through the redirect"
    hub.requests.clear()
    assert resolve_source("Org/Tiny") == local
    assert not any("safetensors" in request for request in hub.requests)


def test_what_shows_that_a_model_is_another_one(
    hub: FakeHub, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched: the hub's commit, else the cached copy's; names, sizes and times of a folder's files."""
    hub.repositories["Org/Tiny"] = Repository(whole)
    first = hub.repositories["Org/Tiny"].commit
    assert version_of("Org/Tiny") == first == version_of(" Org/Tiny ") and not any(
        "resolve" in request for request in hub.requests
    )
    assert version_of("Org/Tiny", offline=True) == "", "it was never fetched"
    resolve_source("Org/Tiny")
    assert version_of("Org/Tiny", offline=True) == first == version_of("Org/Tiny")
    hub.repositories["Org/Tiny"] = Repository(whole | {"config.json": whole["config.json"] + b" "})
    assert version_of("Org/Tiny") == hub.repositories["Org/Tiny"].commit != first
    assert version_of("Org/Nothing") == version_of("smollm2-135m") == version_of(str(tmp_path / "nothing")) == ""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    before = version_of(str(folder))
    (folder / "train.log").touch()
    assert version_of(str(folder)) == before
    weights = folder / "model.safetensors"
    weights.write_bytes(whole["model.safetensors"][::-1])
    os.utime(weights, ns=(0, 1))
    assert version_of(str(folder)) != before, "retrained: as many bytes, another time"


def test_a_hub_that_does_not_answer_leaves_the_cached_commit(
    whole: dict[str, bytes], no_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert version_of("Org/Tiny") == ""
    with serve({"Org/Tiny": Repository(whole)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        resolve_source("Org/Tiny")
    monkeypatch.setenv("HF_ENDPOINT", no_hub)
    assert version_of("Org/Tiny") == Repository(whole).commit


def test_only_safetensors_configuration_and_tokenizer_are_fetched(hub: FakeHub, whole: dict[str, bytes]) -> None:
    extra = dict.fromkeys(("pytorch_model.bin", "onnx/model.onnx", "consolidated.safetensors", "a.py"), b"x" * 10)
    hub.repositories["Org/Tiny"] = Repository(whole | extra)
    local = resolve_source("Org/Tiny")
    fetched = {path.relative_to(local.folder).as_posix() for path in local.folder.rglob("*") if path.is_file()}
    assert fetched == set(whole)


def test_shards_are_all_fetched(hub: FakeHub, sharded: dict[str, bytes], llama: LlamaForCausalLM) -> None:
    assert sum(name.endswith(".safetensors") for name in sharded) > 1
    hub.repositories["Org/Sharded"] = Repository(sharded)
    assert same_logits(resolve_source("Org/Sharded").folder, llama)


def test_a_missing_shard_is_named(hub: FakeHub, sharded: dict[str, bytes]) -> None:
    gone = sorted(name for name in sharded if name.endswith(".safetensors"))[-1]
    hub.repositories["Org/Sharded"] = Repository({name: body for name, body in sharded.items() if name != gone})
    with pytest.raises(ModelError, match=gone):
        resolve_source("Org/Sharded")


def test_hub_ids_share_the_alias_and_its_prefix_token(hub: FakeHub, whole: dict[str, bytes]) -> None:
    hub.repositories |= {"gpt2": Repository(whole), "openai-community/gpt2": Repository(whole)}
    by_alias, by_id = resolve_source("gpt2"), resolve_source("openai-community/gpt2")
    assert by_alias.name == by_id.name == "gpt2"
    assert by_alias.prefix_token == by_id.prefix_token == "<|endoftext|>"


def test_the_revision_is_resolved_and_recorded(hub: FakeHub, whole: dict[str, bytes]) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole, branches=("main", "step1000"))
    local = resolve_source("Org/Tiny", revision="step1000")
    assert local.revision == local.folder.name == hub.repositories["Org/Tiny"].commit
    assert resolve_source("Org/Tiny", revision="step1000", offline=True).folder == local.folder


def test_an_unknown_revision_is_named(hub: FakeHub, whole: dict[str, bytes]) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole)
    with pytest.raises(UsageError, match="no revision 'nope'"):
        resolve_source("Org/Tiny", revision="nope")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_an_unknown_repository_gets_near_aliases(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match="unknown model") as caught:
        resolve_source("EleutherAI/pythia-16m")
    assert "did you mean pythia-160m" in caught.value.fix
    assert ("private" in caught.value.what) == (token is None)


@pytest.mark.parametrize("name", ["a b", "x" * 200, "double--dash", "ends-with.git"])
def test_an_impossible_name_is_unknown(hub: FakeHub, name: str) -> None:
    with pytest.raises(UsageError, match="unknown model"):
        resolve_source(name)


def test_a_gated_repository_asks_for_licence_and_token(
    hub: FakeHub, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["meta-llama/Meta-Llama-3.1-8B"] = Repository(whole, access="gated")
    with pytest.raises(ModelError, match="gated") as caught:
        resolve_source("llama3_8b")
    assert "accept the licence at " + hub.url + "/meta-llama/Meta-Llama-3.1-8B" in caught.value.fix
    assert "HF_TOKEN" in caught.value.fix
    assert "no token is set" in caught.value.what
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert resolve_source("llama3_8b").name == "llama3_8b"


def test_a_refused_token_is_said_and_not_shown(
    hub: FakeHub, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["google/gemma-3-12b-it"] = Repository(whole, access="forbidden")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(ModelError, match="403") as caught:
        resolve_source("gemma3_12b")
    assert "was refused" in caught.value.what
    assert "hf_secret" not in str(caught.value)


def test_pickle_weights_are_refused_before_any_download(hub: FakeHub, whole: dict[str, bytes]) -> None:
    files = {name: body for name, body in whole.items() if not name.endswith(".safetensors")}
    hub.repositories["Org/Old"] = Repository(files | {"pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(ModelError, match=r"pickle only \(pytorch_model.bin\)") as caught:
        resolve_source("Org/Old")
    assert "save_pretrained" in caught.value.fix
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(("name", "length"), [("model.safetensors", 5000), ("tokenizer.json", 20)])
def test_a_body_that_ends_early_is_detected_and_the_next_attempt_works(
    hub: FakeHub, whole: dict[str, bytes], llama: LlamaForCausalLM, name: str, length: int
) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole, cut={name: length})
    with pytest.raises(ModelError, match=f"{name} is truncated: {length:,} bytes"):
        resolve_source("Org/Tiny")
    hub.repositories["Org/Tiny"] = Repository(whole)
    assert same_logits(resolve_source("Org/Tiny").folder, llama)


def test_a_branch_that_moves_during_the_download_does_not_mix_two_commits(
    hub: FakeHub, whole: dict[str, bytes], sharded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything after the question for the sizes asks for that commit by its hash."""
    hub.repositories["Org/Tiny"] = Repository(whole)
    local = resolve_source("Org/Tiny", revision="main")
    commit = hub.repositories["Org/Tiny"].commit
    fetched = [request for request in hub.requests if "/resolve/" in request]
    assert fetched
    assert all(f"/resolve/{commit}/" in request for request in fetched)
    assert (local.folder.parent.parent / "refs" / "main").read_text() == commit
    hub.repositories["Org/Tiny"] = Repository(sharded)
    moved = resolve_source("Org/Tiny")
    assert moved.revision != commit
    assert resolve_source("Org/Tiny", offline=True).folder == moved.folder


def test_offline_damaged_files_are_named_and_not_removed(hub: FakeHub, whole: dict[str, bytes]) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole)
    weights = resolve_source("Org/Tiny").folder / "model.safetensors"
    blob = weights.resolve()
    blob.write_bytes(blob.read_bytes()[:5000])
    with pytest.raises(ModelError, match="truncated"):
        resolve_source("Org/Tiny", offline=True)
    assert weights.exists()
    assert blob.stat().st_size == 5000


def test_a_file_that_is_short_on_the_hub_is_named_and_removed(
    hub: FakeHub, whole: dict[str, bytes], llama: LlamaForCausalLM
) -> None:
    size = len(whole["model.safetensors"])
    cut = whole | {"model.safetensors": whole["model.safetensors"][:5000]}
    hub.repositories["Org/Tiny"] = Repository(cut)
    with pytest.raises(ModelError, match=rf"5,000 bytes, but its header announces {size:,} bytes"):
        resolve_source("Org/Tiny")
    hub.repositories["Org/Tiny"] = Repository(whole)
    assert same_logits(resolve_source("Org/Tiny").folder, llama)


def test_an_unreachable_hub_names_the_models_that_need_none(no_hub: str) -> None:
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        resolve_source("pythia-160m")
    assert no_hub in caught.value.what
    assert "smollm2-135m, gemma-3-270m" in caught.value.fix


def test_a_misspelt_alias_without_hub_gets_the_near_one(no_hub: str) -> None:
    with pytest.raises(ModelError, match="no model is called 'smollm-135m'") as caught:
        resolve_source("smollm-135m")
    assert "did you mean smollm2-135m" in caught.value.fix


def test_a_hub_that_is_down_is_no_obstacle_to_what_is_here(
    hub: FakeHub, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole)
    before = resolve_source("Org/Tiny")
    request.getfixturevalue("no_hub")
    after = resolve_source("Org/Tiny")
    assert after.folder == before.folder
    assert any("could not be reached" in notice for notice in after.notices)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_asks_nobody(hub: FakeHub, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    hub.repositories["Org/Tiny"] = Repository(whole)
    offline = by == "argument"
    if not offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="offline mode is on"):
        resolve_source("Org/Tiny", offline=offline)
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    fetched = resolve_source("Org/Tiny")
    hub.requests.clear()
    assert resolve_source("Org/Tiny", offline=True) == fetched
    assert hub.requests == []


def test_too_little_disk_is_said_before_the_download(
    hub: FakeHub, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[[Path], object] = lambda _path: type("Usage", (), {"free": 1000})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    hub.repositories["Org/Tiny"] = Repository(whole)
    with pytest.raises(StoreError, match="are free"):
        resolve_source("Org/Tiny")
    assert not any("/resolve/" in request for request in hub.requests)


def test_a_snapshot_folder_keeps_the_models_name(hub: FakeHub, whole: dict[str, bytes]) -> None:
    hub.repositories["EleutherAI/pythia-160m"] = Repository(whole)
    fetched = resolve_source("pythia-160m")
    by_folder = resolve_source(fetched.folder)
    assert (by_folder.name, by_folder.prefix_token, by_folder.revision) == (
        "pythia-160m", "<|endoftext|>", fetched.revision,
    )  # fmt: skip


def test_the_size_of_a_model_in_the_cache_is_known(hub: FakeHub, whole: dict[str, bytes]) -> None:
    """From the headers of its files, and nobody is asked; one that was never fetched has no size."""
    hub.repositories["org/tiny"] = Repository(whole)
    assert weight_bytes_of_source("org/tiny", {}) is None
    folder = resolve_source("org/tiny").folder
    asked = len(hub.requests)
    size = weight_bytes_of_source("org/tiny", {"dtype": "bfloat16"})
    assert size == weight_bytes(folder, "bfloat16") > 0 and weight_bytes_of_source("org/tiny", {}) == 2 * size
    assert len(hub.requests) == asked
    assert weight_bytes_of_source("no such name", {}) is None
