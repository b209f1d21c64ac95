"""Ablations and transplants as conditions equal the packed ablations, and act while text is generated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.components import MLP, Head, Neuron
from emotion_circuits.circuits.conditions import ablation, combined, transplant
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, decode, next_token_logits
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Positions, Prompt
from planted_circuits import READER, planted

ENDPOINT = Endpoint((5, 9), (7, 30))
PAIR = Pair(
    Prompt("e", "Thank you for walking the dog.", scenario="s"), Prompt("n", "The parcel arrived.", scenario="s")
)
SETS = [(Head(0, 1), Head(2, 3)), (MLP(1),), (Neuron(2, 5), Neuron(1, 7)), (Head(1, 0), MLP(2), Neuron(0, 3))]


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gpt_neo", "llama", "gemma3_text"])
def test_conditions_do_what_packed_ablation_does(tiny, architecture, mode):
    lm = tiny(architecture)
    packed = ablate_sets(lm, [PAIR], SETS, ENDPOINT, mode=mode).ablated[:, 0]
    (encoded,) = lm.encode([PAIR.clean])
    conditions = [ablation(lm, f"c{i}", s, mode, prompt=PAIR.clean, donors=[PAIR.donor]) for i, s in enumerate(SETS)]
    found = ENDPOINT(next_token_logits(lm, [(encoded, c) for c in conditions])).numpy()
    np.testing.assert_allclose(found, packed, atol=2e-4)


def test_heads_and_neurons_combine(tiny):
    lm = tiny("llama")
    (encoded,) = lm.encode([PAIR.clean])
    heads, neurons = (ablation(lm, n, s, "zero") for n, s in (("h", SETS[0]), ("n", SETS[2])))
    both = combined("both", heads, neurons)
    at_once = ablation(lm, "all", (*SETS[0], *SETS[2]), "zero")
    a, b, c = next_token_logits(lm, [(encoded, both), (encoded, at_once), (encoded, heads)])
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert float((a - c).abs().max()) > 1e-3


@pytest.mark.parametrize("mode", ["result", "v_only"])
def test_a_transplant_puts_the_sources_activation_there(tiny, mode):
    lm = tiny("llama")
    heads = [Head(1, 2), Head(1, 3)]
    condition = transplant(lm, "t", heads, PAIR.donor, mode=mode)
    sites = {(i.site.kind, i.site.layer, i.site.index) for i in condition.interventions}
    assert sites == ({("z", 1, 2), ("z", 1, 3)} if mode == "result" else {("v", 1, 1)})
    kind = "z" if mode == "result" else "v"
    wanted = capture(lm, [PAIR.donor], [kind], [Positions("last")]).get(kind, "last")[0, 1]
    for i in condition.interventions:
        np.testing.assert_array_equal(i.vector, wanted[i.site.index])


def test_transplanting_the_planted_head_makes_a_neutral_text_emotional_while_writing(tokenizers):
    plant = planted(tokenizers["byte-level"])
    pair, lm = plant.pairs[0], plant.lm
    (neutral,) = lm.encode([pair.donor])
    patch = transplant(lm, "t", [READER], pair.clean)
    none, moved = plant.endpoint(next_token_logits(lm, [(neutral, BASELINE), (neutral, patch)]))
    (emotional,) = lm.encode([pair.clean])
    own = plant.endpoint(next_token_logits(lm, [(emotional, BASELINE)]))[0]
    assert float(moved) == pytest.approx(float(own), rel=0.1) and abs(float(none)) < 0.1 * float(own)
    ablated = ablation(lm, "a", [READER], "zero")
    rows = [(emotional, BASELINE), (emotional, ablated)]
    (_, plain, _), (_, without, _) = decode(lm, rows, [0, 1], 4)
    assert plain[0] == plant.endpoint.targets[0] and without[0] != plain[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda lm: ablation(lm, "x", [], "zero"),
        lambda lm: ablation(lm, "x", SETS[0], "median"),
        lambda lm: ablation(lm, "x", SETS[0], "mean"),
        lambda lm: ablation(lm, "x", SETS[0], "resample", donors=[PAIR.donor]),
        lambda lm: transplant(lm, "x", [], PAIR.donor),
        lambda lm: transplant(lm, "x", [Head(0, 1)], PAIR.donor, mode="q_only"),
    ],
)
def test_what_cannot_be_a_condition_is_refused(tiny, call):
    with pytest.raises(UsageError) as caught:
        call(tiny("gpt2"))
    assert caught.value.fix
