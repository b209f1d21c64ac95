"""Loading: what a folder or an object must be, and what is said when it is not."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration
from transformers.utils import logging as hf_logging

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models import load as load_module
from emotion_circuits.models import load_lm
from emotion_circuits.models.families import llama_like
from emotion_circuits.types import Prompt
from tiny_models import tiny_model


@pytest.fixture
def saved(tokenizers, tmp_path):
    """A folder with a tiny Llama and its tokenizer, and the model itself."""
    model = tiny_model("llama", tokenizers["byte-level"])
    folder = tmp_path / "tiny-llama"
    model.save_pretrained(folder)
    tokenizers["byte-level"].save_pretrained(folder)
    return folder, model


def test_a_folder_gives_the_same_logits_as_the_model_that_was_saved(saved, tokenizers):
    folder, model = saved
    lm = load_lm(folder, device="cpu")
    ids = torch.tensor([lm.encode([Prompt("p", "Thank you for the parcel.")])[0].ids])
    with torch.inference_mode():
        assert torch.equal(lm.model(ids).logits, model(ids).logits)
    assert (lm.n_layers, lm.n_heads, lm.n_kv_heads, lm.d_model, lm.d_head, lm.d_mlp) == (3, 4, 2, 32, 8, 48)
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert not lm.model.training
    assert lm.fingerprint == load_lm(model, tokenizers["byte-level"]).fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_the_one_asked_for_and_changes_the_fingerprint(saved, dtype):
    lm = load_lm(saved[0], dtype=dtype, device="cpu")
    assert lm.dtype == getattr(torch, dtype)
    assert lm.fingerprint != load_lm(saved[0], device="cpu").fingerprint


def test_a_device_map_loads_the_same_model(saved):
    lm = load_lm(saved[0], device_map="cpu")
    assert lm.fingerprint == load_lm(saved[0], device="cpu").fingerprint


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gets_its_weights_without_a_copy_in_main_memory(tokenizers, tmp_path, monkeypatch, family, dtype):
    """The loader is told the device; what it then makes is, to the bit and without hooks, the model that is moved."""
    tiny_model(family, tokenizers["byte-level"]).save_pretrained(tmp_path)
    tokenizers["byte-level"].save_pretrained(tmp_path)
    moved, told = load_lm(tmp_path, dtype=dtype, device="cpu").model, []
    original = load_module.AutoModelForCausalLM.from_pretrained

    def placed(*args, device_map=None, **options):
        told.append(device_map)
        return original(*args, device_map={"": "cpu"}, **options)

    monkeypatch.setattr(load_module, "resolve_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 1 << 40)
    monkeypatch.setattr(load_module.AutoModelForCausalLM, "from_pretrained", placed)
    direct = load_lm(tmp_path, dtype=dtype).model
    assert told == [{"": torch.device("cuda", 0)}]
    for kind in ("named_parameters", "named_buffers"):
        expected, found = (dict(getattr(m, kind)()) for m in (moved, direct))
        assert expected.keys() == found.keys()
        assert all(
            torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items()
        )
    assert not any(hasattr(module, "_hf_hook") for module in direct.modules())


def test_quantised_weights_go_through_main_memory_which_has_to_hold_them(saved, monkeypatch):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    monkeypatch.setattr(load_module, "resolve_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(load_module, "free_bytes", lambda device: 1 << 40 if device.type == "cuda" else 1000)
    with pytest.raises(ModelError, match="does not fit on the way through main memory"):
        load_lm(folder)


def test_memory_that_runs_out_while_loading_is_not_a_damaged_folder(saved, monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(load_module.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_lm(saved[0], device="cpu")


def test_unknown_options_are_refused_before_anything_is_looked_up(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("looked up")

    monkeypatch.setattr("emotion_circuits.models.sources.resolve_source", never)
    with pytest.raises(UsageError, match="dtype 'float8'"):
        load_lm("gpt2", dtype="float8")
    with pytest.raises(UsageError, match="device 'tpu'"):
        load_lm("gpt2", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="not available"):
            load_lm("gpt2", device="cuda")


def test_the_prefix_is_the_one_asked_for_the_tokenizers_own_or_the_familys(saved, tokenizers):
    folder, model = saved
    assert load_lm(folder, device="cpu").prefix_ids == (0,)  # <|endoftext|>, from the family
    assert load_lm(model, tokenizers["byte-level"], prefix_token="Ġyou").prefix_ids == (
        tokenizers["byte-level"].get_vocab()["Ġyou"],
    )
    own = tokenizers["metaspace"]
    assert load_lm(tiny_model("llama", own), own).prefix_ids == (own.bos_token_id,)
    with pytest.raises(UsageError, match="'<nowhere>' is not in the vocabulary"):
        load_lm(folder, device="cpu", prefix_token="<nowhere>")


def test_without_a_prefix_the_model_says_so(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["byte-level"])
    tokenizer.bos_token = tokenizer.eos_token = None
    model = tiny_model("llama", tokenizer)
    family = dataclasses.replace(llama_like(), prefix_tokens=())
    assert load_module._prefix(tokenizer, family, None) == ()
    with mock.patch.object(load_module, "family_of", return_value=family):
        lm = load_lm(model, tokenizer)
        assert lm.prefix_ids == ()
        assert any("prefix_token" in notice for notice in lm.notices)
        assert not load_lm(model, tokenizer, prefix_token="Ġyou").notices


def test_the_familys_token_precedes_a_bos_that_the_tokenizer_declares_but_does_not_add(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["byte-level"])
    tokenizer.bos_token = "Ġyou"
    lm = load_lm(tiny_model("llama", tokenizer), tokenizer)
    assert lm.prefix_ids == (tokenizer.get_vocab()["<|endoftext|>"],)


def test_weights_that_are_missing_are_not_replaced_by_random_ones(saved):
    folder, _ = saved
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight \(1 tensors"):
        load_lm(folder, device="cpu")


def test_a_config_of_another_size_than_the_weights_is_refused(saved):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(ModelError, match="tiny-llama"):
        load_lm(folder, device="cpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "abc"},
        {"hidden_size": None},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"rope_scaling": "none", "rope_parameters": 7},
        {"hidden_act": "no-such-function"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_a_config_with_wrong_content_is_an_error_about_the_model(saved, wrong):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | wrong))
    with pytest.raises(ModelError, match="tiny-llama") as caught:
        load_lm(folder, device="cpu")
    assert caught.value.fix


def test_a_damaged_tokenizer_is_an_error_about_the_model(saved):
    folder, _ = saved
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    with pytest.raises(ModelError, match="tiny-llama"):
        load_lm(folder, device="cpu")


def test_encoders_and_translators_are_refused(tokenizers, tmp_path):
    sizes = {"vocab_size": 360, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "bert")
    T5ForConditionalGeneration(T5Config(vocab_size=360, d_model=32, d_kv=8, d_ff=32, num_layers=1)).save_pretrained(
        tmp_path / "t5"
    )
    for name in ("bert", "t5"):
        tokenizers["byte-level"].save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match=name):
            load_lm(tmp_path / name, device="cpu")


def test_code_in_a_model_folder_never_runs(saved, monkeypatch):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "custom",
        "auto_map": {"AutoModelForCausalLM": "modeling.Custom", "AutoConfig": "modeling.C"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError):
        load_lm(folder, device="cpu")


def test_the_loaders_settings_are_as_before(saved):
    hf_logging.set_verbosity_warning()
    hf_logging.enable_progress_bar()
    load_lm(saved[0], device="cpu")
    with pytest.raises(ModelError):
        (saved[0] / "config.json").write_text('{"model_type": "none"}')
        load_lm(saved[0], device="cpu")
    assert hf_logging.get_verbosity() == hf_logging.WARNING
    assert hf_logging.is_progress_bar_enabled()
    assert gc.isenabled()


def test_objects_that_are_no_models_are_refused(tokenizers):
    with pytest.raises(UsageError, match="dict"):
        load_lm({}, tokenizers["byte-level"])
    with pytest.raises(UsageError, match="as a model"):
        load_lm(tiny_model("gpt2", tokenizers["byte-level"]))  # no tokenizer
    encoder = BertModel(BertConfig(vocab_size=360, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ModelError, match="not a causal language model"):
        load_lm(encoder, tokenizers["byte-level"])


def test_auto_picks_a_device_that_is_there():
    assert load_module.resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert load_module.resolve_device("cpu") == torch.device("cpu")


@pytest.mark.real_model
@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-270m"])
def test_converted_weights_load_within_three_seconds(model, embedded):
    import time

    embedded(model)
    start = time.process_time()  # the processor's seconds: the machine may be busy with something else
    load_lm(model, device="cpu")
    assert time.process_time() - start < 3
