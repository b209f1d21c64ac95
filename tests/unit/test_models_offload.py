"""Models that do not fit: several weight files, weights kept in main memory or on the disk, and refusals beforehand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from transformers.utils import logging as hf_logging

from emotion_circuits.cli import main
from emotion_circuits.engine import Sampling, capture, generate
from emotion_circuits.engine.verify import verify_family
from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models import LM, load_lm
from emotion_circuits.models import load as load_module
from emotion_circuits.models.preflight import demand, weight_bytes, weight_bytes_of_source
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from tiny_models import ARCHITECTURES, GROUPED, Ids, byte_level_tokenizer, from_config, metaspace_tokenizer

PROMPTS = [
    Prompt("e1", "Thank you so much for the lovely flowers."),
    Prompt("e2", "I am grateful for all your help."),
    Prompt("n1", "The bus left the station at noon."),
    Prompt("n2", "The parcel arrived on a rainy Tuesday morning."),
]
GREEDY = Sampling(max_new_tokens=4)
LAYERS = 20


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Llama of 300 MB in float32, in six weight files; removed afterwards."""
    tokenizer = byte_level_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1664, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.03,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sharded") / "llama"
    hf_logging.disable_progress_bar()
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="60MB")
    hf_logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


def on_disk(folder: Path, dtype: str = "float32") -> LM:
    """A quarter of the weights in memory, the others read from the model's own files for every pass."""
    budget = weight_bytes(folder, dtype) // 4
    lm = load_lm(folder, dtype=dtype, device_map="auto", max_memory={"cpu": budget})
    assert "disk" in set(lm.model.hf_device_map.values())
    return lm


def on_cpu(folder: Path, dtype: str = "float32") -> LM:
    """Every weight away from the device that it is used on, and fetched for every pass."""
    lm = load_lm(folder, dtype=dtype, device="cpu")
    cpu_offload(lm.model, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in lm.model.parameters())
    return lm


def directions(lm: LM) -> NDArray[np.float64]:
    """``[layer, d]``: mean of the first two prompts minus mean of the others."""
    read = capture(lm, PROMPTS, ["resid_post"], [Positions("mean-content")]).get("resid_post", "mean-content")
    return np.asarray(read[:2].mean(0) - read[2:].mean(0), np.float64)


def texts(lm: LM, vector: NDArray[np.float64]) -> list[tuple[int, ...]]:
    steered = Condition("v", (Intervention(Site("resid_post", 5), "add", Positions("onward"), vector, 4.0),))
    return [g.tokens for g in generate(lm, PROMPTS[2:], [Condition("baseline"), steered], GREEDY)]


@pytest.fixture(scope="module")
def in_memory(sharded: Path) -> tuple[str, NDArray[np.float64], list[tuple[int, ...]]]:
    lm = load_lm(sharded, device="cpu")
    found = directions(lm)
    return lm.fingerprint, found, texts(lm, found[5])


def test_the_checkpoint_is_what_it_should_be(sharded: Path) -> None:
    files = list(sharded.glob("*.safetensors"))
    assert len(files) >= 5 and sum(f.stat().st_size for f in files) > 250e6
    assert weight_bytes(sharded, "float32") == 2 * weight_bytes(sharded, "bfloat16")
    assert abs(weight_bytes(sharded, "float32") - sum(f.stat().st_size for f in files)) < 100_000


def test_a_second_copy_of_the_weights_takes_no_memory(sharded: Path, tmp_path: Path) -> None:
    """Some publishers put ``consolidated.safetensors`` beside the shards."""
    for file in sharded.iterdir():
        (tmp_path / file.name).symlink_to(file)
    whole = weight_bytes(tmp_path, "float32")
    (tmp_path / "consolidated.safetensors").symlink_to(next(sharded.glob("*.safetensors")))
    assert weight_bytes(tmp_path, "float32") == whole > 0
    assert weight_bytes(tmp_path / "absent", "float32") == 0


@pytest.mark.parametrize("place", [on_disk, on_cpu], ids=["disk", "cpu"])
def test_offloaded_weights_give_the_same_directions_and_texts(
    place: Callable[[Path], LM], sharded: Path, in_memory: tuple[str, NDArray[np.float64], list[tuple[int, ...]]]
) -> None:
    lm = place(sharded)
    fingerprint, expected, written = in_memory
    found = directions(lm)
    assert np.array_equal(found, expected), "float32 is exact"
    assert texts(lm, expected[5]) == written and len({*written}) > 1
    assert lm.fingerprint == fingerprint, "where weights lie does not change a run's key"
    assert str(lm.device) == "cpu"


def test_half_precision_from_the_disk_keeps_the_directions(
    sharded: Path, in_memory: tuple[str, NDArray[np.float64], list[tuple[int, ...]]]
) -> None:
    _, exact, _ = in_memory
    found = directions(on_disk(sharded, "bfloat16"))
    assert np.array_equal(found, directions(load_lm(sharded, dtype="bfloat16", device="cpu")))
    cosines = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() >= 0.999, cosines


def test_means_over_tokens_are_summed_in_float32(sharded: Path) -> None:
    """A mean that is accumulated in bfloat16 would be off by far more than the rounding of its terms."""
    lm = load_lm(sharded, dtype="bfloat16", device="cpu")
    prompt = [Prompt("long", "The bus left the station at noon. " * 6)]
    read = capture(lm, prompt, ["resid_post"], [Positions("mean-content"), Positions("all")])
    tokens = np.asarray(read.get("resid_post", "all"), np.float64)
    assert (tokens == torch.tensor(tokens).bfloat16().double().numpy()).all(), "single tokens are the model's own"
    mean = np.asarray(read.get("resid_post", "mean-content"))[0]
    assert np.abs(mean - tokens.mean(0)).max() <= 1e-6 * np.abs(tokens).max()


def _llama_31(ids: Ids) -> PreTrainedConfig:
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64, "rope_theta": 500000.0}  # fmt: skip
    return LlamaConfig(**GROUPED, rope_parameters=scaled, tie_word_embeddings=False, **ids)


MID_SIZE = {"llama-3.1": _llama_31, "gemma-3-12b": ARCHITECTURES["gemma3"], "qwen-3": ARCHITECTURES["qwen3"]}


@pytest.mark.parametrize("name", MID_SIZE)
def test_the_mid_size_families_keep_their_contract_with_weights_on_the_disk(name: str, tmp_path: Path) -> None:
    tokenizer = metaspace_tokenizer() if name.startswith("gemma") else byte_level_tokenizer()
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
           "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}  # fmt: skip
    hf_logging.disable_progress_bar()
    from_config(MID_SIZE[name](ids)).save_pretrained(tmp_path, max_shard_size="40KB")
    hf_logging.enable_progress_bar()
    tokenizer.save_pretrained(tmp_path)
    lm = on_disk(tmp_path)
    assert np.array_equal(directions(lm), directions(load_lm(tmp_path, device="cpu")))
    assert [check for check in verify_family(lm) if not check.ok] == []


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 200_000_000)
    with pytest.raises(ModelError) as caught, monkeypatch.context() as patch:
        patch.setattr(load_module.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("was loaded"))
        load_lm(sharded, device="cpu")
    error = caught.value
    assert "does not fit on cpu" in error.what
    assert "weights 0.27 GB" in error.what and "0.20 GB are free" in error.what and "keys and values" in error.what
    assert "--dtype bfloat16 (weights 0.1" in error.fix and "--device-map auto" in error.fix
    assert load_lm(sharded, dtype="bfloat16", device="cpu").dtype == torch.bfloat16, "half of it fits"
    assert load_lm(sharded, device_map="auto", max_memory={"cpu": "100MB"}), "and so does what is on the disk"


def test_a_spread_model_keeps_within_the_limits_of_container_and_job(
    sharded: Path, in_memory: tuple[str, NDArray[np.float64], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate by itself reads what the machine has, of which a container or job may have a part only."""
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 200_000_000)
    lm = load_lm(sharded, device_map="auto")
    held = sum(p.numel() * p.element_size() for p in lm.model.parameters() if not p.is_meta)
    assert 100_000_000 < held <= 180_000_000, "a tenth is left for keys, values and activations"
    assert np.array_equal(directions(lm), in_memory[1])
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 1 << 62)
    assert not any(p.is_meta for p in load_lm(sharded, device_map="auto").model.parameters())


def test_bfloat16_is_proposed_only_where_it_would_fit(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 100_000_000)
    with pytest.raises(ModelError) as caught:
        load_lm(sharded, device="cpu")
    assert "bfloat16" not in caught.value.fix and "--device-map auto" in caught.value.fix


def test_demand_of_an_8b_model_follows_its_config() -> None:
    """Llama 3.1 8B: 8.03e9 parameters; 2 · 32 · 8 · 128 · 128 · 2 bytes of cache; 4 · 32 · 4096 · 128 of captures."""
    config = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
              "vocab_size": 128256}  # fmt: skip
    weights = weight_bytes_of_source("llama3_8b", {"dtype": "bfloat16"})
    assert weights == 2 * 8_030_000_000
    needed = demand(config, weights, "bfloat16", tokens=128)
    assert (needed.cache, needed.captures, needed.logits) == (16_777_216, 67_108_864, 2_052_096)
    assert needed.total == weights + 16_777_216 + 67_108_864 + 2_052_096
    wrapped = {"text_config": config, "vision_config": {"num_hidden_layers": 99}}
    assert demand(wrapped, weights, "bfloat16", tokens=128) == needed, "a wrapper's text model is what runs"
    assert weight_bytes_of_source("no-such-model", {}) is None


def test_a_broken_config_is_told_by_the_loader(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": "many"}))
    with pytest.raises((ModelError, UsageError)):
        load_lm(tmp_path, device="cpu")


def test_numbers_that_are_none_are_named_with_weights_on_the_disk(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    model = from_config(_llama_31(ids))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    hf_logging.disable_progress_bar()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    hf_logging.enable_progress_bar()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"NaN or infinity in resid_post of layer 1 on prompt 'e1'") as caught:
        directions(on_disk(tmp_path))
    assert "damaged" in caught.value.fix and "--dtype" not in caught.value.fix, "it is float32 already"


def test_from_the_command_line(sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "extract", "--model", sharded, "--profile", "baseline", "--scenarios", 4, "--results", tmp_path,
             "--dtype", "bfloat16", "--quiet"]  # fmt: skip
    assert main([str(w) for w in (*words, "--device-map", "auto")]) == 0
    assert main([str(w) for w in words]) == 0
    assert len(list(tmp_path.glob("*/*/extract/*/done.json"))) == 1, "where weights lie is not part of the key"
    assert main([str(w) for w in (*words, "--device-map", "moon")]) == 2
    assert "--device-map" in capsys.readouterr().err
