"""TransformerLens as the oracle: same residual stream, patterns, head outputs and weights as its TransformerBridge.

Needs the extra ``[tl]``; the Hugging Face parity beside this file always runs.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from emotion_circuits.engine import capture
from emotion_circuits.engine.clauses import ABOUT_WEIGHTS, CLAUSES
from emotion_circuits.engine.decode import BASELINE, next_token_logits
from emotion_circuits.engine.verify import verify_family
from emotion_circuits.errors import ModelError
from emotion_circuits.models import load_lm
from emotion_circuits.models.weights import head_weights
from emotion_circuits.types import Positions, Prompt
from tiny_models import ARCHITECTURES, tiny_lm, tiny_model

pytest.importorskip("transformer_lens", reason="the extra [tl] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = Prompt("p", "He parked in my space again, and I had to leave the car.")
ALL = Positions("all")
HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
}


@pytest.fixture
def boot(tokenizers, tmp_path):
    """``boot(architecture)``: a bridge over a tiny model, and the same model untouched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge.sources.transformers import boot as boot_bridge

    def make(architecture: str):
        model = tiny_model(architecture, tokenizers["byte-level"], attention="eager")
        model.save_pretrained(tmp_path)
        tokenizers["byte-level"].save_pretrained(tmp_path)
        # A tokenizer without a folder has no name_or_path, which TransformerLens insists on.
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        bridge = boot_bridge(model_name=str(tmp_path), hf_model=model, tokenizer=tokenizer)
        return bridge, tiny_lm(architecture, tokenizers["byte-level"], attention="eager")

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_and_weights_equal_the_bridges(boot, architecture):
    bridge, lm = boot(architecture)
    (encoded,) = lm.encode([PROMPT])
    ids = torch.tensor([encoded.ids])
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(ids)
    found = capture(lm, [PROMPT], list(HOOKS), [ALL])
    for kind, hook in HOOKS.items():
        for layer in range(lm.n_layers):
            name = f"blocks.{layer}.{hook}"
            if name not in cache:
                assert kind in ("attn_out", "mlp_out"), f"the bridge has no {name}"
                continue
            theirs = cache[name][0]
            theirs = theirs.transpose(0, 1) if kind == "pattern" else theirs
            ours = found.get(kind, ALL)[:, layer]
            np.testing.assert_allclose(ours, theirs[encoded.content].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    own = next_token_logits(lm, [(encoded, BASELINE)])
    np.testing.assert_allclose(own[0].numpy(), logits[0, -1].numpy(), rtol=1e-3, atol=1e-4)
    for layer in range(lm.n_layers):
        weights, attention = head_weights(lm, layer), bridge.blocks[layer].attn
        theirs = {name: getattr(attention, name, None) for name in ("W_Q", "W_K", "W_V", "W_O")}
        for name, ours in zip(theirs, (weights.w_q, weights.w_k, weights.w_v, weights.w_o), strict=True):
            if theirs[name] is not None and theirs[name].shape == ours.shape:
                torch.testing.assert_close(theirs[name].detach().float(), ours)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bridge_is_accepted_and_its_model_unwrapped(boot, architecture):
    bridge, untouched = boot(architecture)
    lm = load_lm(bridge)
    layout = {name: clause for name, clause in CLAUSES.items() if name not in ABOUT_WEIGHTS}
    assert [(c.name, c.detail) for c in verify_family(lm, layout) if not c.ok] == []
    ids = torch.tensor([untouched.encode([PROMPT])[0].ids])
    with torch.inference_mode():
        assert torch.equal(lm.model(input_ids=ids).logits, untouched.model(input_ids=ids).logits)
        assert torch.isfinite(bridge(ids)).all()  # the bridge still works
    shared = {p.data_ptr() for p in bridge.original_model.parameters()}
    assert all(p.data_ptr() in shared for p in lm.model.parameters())


def test_the_model_that_was_given_to_a_bridge_is_unwrapped_too(boot):
    bridge, untouched = boot("llama")
    lm = load_lm(bridge.original_model, untouched.tokenizer)
    ids = torch.tensor([untouched.encode([PROMPT])[0].ids])
    with torch.inference_mode():
        assert torch.equal(lm.model(input_ids=ids).logits, untouched.model(input_ids=ids).logits)


def test_a_bridge_with_processed_weights_is_refused(boot):
    bridge, _ = boot("gpt2")
    bridge.enable_compatibility_mode()
    with pytest.raises(ModelError, match="processed"):
        load_lm(bridge)
