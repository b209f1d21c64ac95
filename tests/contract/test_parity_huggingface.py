"""What capture reads is what Hugging Face itself returns with ``output_hidden_states`` and ``output_attentions``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.engine import capture
from emotion_circuits.engine.decode import BASELINE, next_token_logits
from emotion_circuits.types import Positions, Prompt
from tiny_models import ARCHITECTURES

PROMPTS = (
    Prompt("short", "Thank you for the parcel."),
    Prompt("long", "He parked in my space again, and I had to leave the car three streets away."),
)
ALL = Positions("all")


def own_rows(activations, values, prompt: int) -> np.ndarray:
    start, end = activations.token_starts[prompt : prompt + 2]
    return values[start:end]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_residual_stream_and_patterns_equal_huggingface_outputs(tiny, architecture):
    lm = tiny(architecture, "byte-level", "eager")
    found = capture(lm, PROMPTS, ["resid_pre", "resid_post", "pattern"], [ALL])
    for number, encoded in enumerate(lm.encode(PROMPTS)):
        with torch.inference_mode():
            out = lm.model(
                input_ids=torch.tensor([encoded.ids]),
                output_hidden_states=True,
                output_attentions=True,
                use_cache=False,
            )
        pre = own_rows(found, found.get("resid_pre", ALL), number)
        post = own_rows(found, found.get("resid_post", ALL), number)
        for layer in range(lm.n_layers):
            theirs = out.hidden_states[layer][0, encoded.content].numpy()
            np.testing.assert_allclose(pre[:, layer], theirs, rtol=1e-4, atol=1e-4)
            if layer:
                np.testing.assert_allclose(post[:, layer - 1], theirs, rtol=1e-4, atol=1e-4)
            pattern = own_rows(found, found.get("pattern", ALL), number)[:, layer]
            attention = out.attentions[layer][0].transpose(0, 1)[encoded.content].numpy()
            np.testing.assert_allclose(pattern[..., : len(encoded)], attention, atol=1e-5)
            assert not pattern[..., len(encoded) :].any()
        # The last entry of hidden_states is after the final norm: our resid_post is what that norm reads.
        with torch.inference_mode():
            normed = lm.final_norm(torch.from_numpy(post[:, -1].copy()))
        np.testing.assert_allclose(normed.numpy(), out.hidden_states[-1][0, encoded.content], rtol=1e-4, atol=1e-4)
        logits = next_token_logits(lm, [(encoded, BASELINE)])
        np.testing.assert_allclose(logits[0].numpy(), out.logits[0, -1].numpy(), rtol=1e-4, atol=1e-4)
