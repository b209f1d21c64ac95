"""OV and QK circuits, neurons and routed patterns: exact against the models, and true on planted weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.components import MLP, Grid, Head, Neuron
from emotion_circuits.circuits.contributions import Reading, direct_contributions
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.neurons import (
    activation_times_gradient,
    activation_times_write,
    top_neurons,
    write_scores,
)
from emotion_circuits.circuits.ov import ov_factors, ov_scores, source_tokens_in_prompts, top_source_tokens
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.qk import key_scores_from_weights, measured_key_scores, qk_scores
from emotion_circuits.circuits.routing import equal_length_twin, patterns_of, routed
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, decode, next_token_logits
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.errors import ContractError, UsageError
from emotion_circuits.types import Positions, Prompt, Site
from planted_circuits import CONFIRMED, CONFIRMERS, MARKED, READER, SEEN, planted
from tiny_models import ARCHITECTURES

LAST, ALL = Positions("last"), Positions("all")
ENDPOINT = Endpoint((5, 9), (7, 30))
TEXT = Prompt("a", "We were away on Tuesday and the bus left", scenario="s0")
TWIN = Prompt("b", "We were street the Tuesday and away bus left", scenario="s0")
PAIRS = [Pair(Prompt("e", "We were away on Tuesday", "joy", "s0", spans=((8, 12),)),
              Prompt("n", "We were street on Tuesday", scenario="s0"))]  # fmt: skip


@pytest.fixture(scope="module")
def plant(tokenizers):
    return planted(tokenizers["byte-level"])


def axis(i: int, d: int = 32) -> np.ndarray:
    return np.eye(d)[i]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ov_factors_give_the_models_own_values(tiny, architecture):
    lm = tiny(architecture)
    a = capture(lm, [TEXT], ["resid_pre", "v"], [LAST])
    group = lm.n_heads // lm.n_kv_heads
    for layer in range(lm.n_layers):
        x = torch.from_numpy(a.get("resid_pre", LAST)[:, layer].copy())
        norm = lm.module(layer, "attention_norm")
        eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 1e-6)
        centred = x - x.mean(-1, keepdim=True) if lm.family.norm == "layer" else x
        normed = x * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        f = ov_factors(lm, layer)
        found = torch.einsum("rm,hmd->rhd", normed, f.read) + f.constant
        wanted = torch.from_numpy(a.get("v", LAST)[:, layer].copy()).repeat_interleave(group, 1)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_planted_head_writes_the_direction_it_was_given(plant):
    scores = ov_scores(plant.lm, axis(SEEN))
    assert np.unravel_index(scores.write.argmax(), scores.write.shape) == (READER.layer, READER.index)
    assert scores.write.max() > 2 * np.sort(scores.write.ravel())[-2]
    rng = np.random.default_rng(0)
    random = np.mean([ov_scores(plant.lm, rng.normal(size=32)).write[0] ** 2 for _ in range(40)])
    assert random == pytest.approx(1, abs=0.15)


def test_the_planted_head_reads_its_word_in_the_vocabulary_and_in_texts(plant):
    lm, word = plant.lm, "Ġ" + MARKED.strip()
    (tokens,) = top_source_tokens(lm, [READER], axis(SEEN), k=3).values()
    assert tokens[0].token == word and tokens[0].score > 5 * tokens[1].score
    texts = [p.clean for p in plant.pairs]
    (found,) = source_tokens_in_prompts(lm, texts, [READER], axis(SEEN), k=3).values()
    assert found[0].token == word and found[0].count == len(texts) and found[0].score > 20 * abs(found[1].score)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3_text"])
def test_source_tokens_of_a_text_sum_to_what_the_head_writes(tiny, architecture):
    lm, head, d = tiny(architecture), Head(1, 3), np.random.default_rng(0).normal(size=32)
    (found,) = source_tokens_in_prompts(lm, [TEXT], [head], d, k=999).values()
    z = capture(lm, [TEXT], ["z"], [LAST]).get("z", LAST)[0, 1, 3]
    along = ov_factors(lm, 1).write[3].detach().numpy() @ (d / np.linalg.norm(d))
    pattern = patterns_of(lm, TEXT, [1])[1][3, -1].numpy()
    prefix_share = pattern[: lm.encode([TEXT])[0].n_prefix].sum()
    total = sum(t.score for t in found)
    assert sum(t.count for t in found) == len(lm.encode([TEXT])[0].content)
    if prefix_share < 1e-6:
        assert total == pytest.approx(float(z @ along), rel=1e-3)
    else:
        assert np.isfinite(total) and total != pytest.approx(float(z @ along), rel=1e-6)


def test_vocabulary_scores_are_those_of_the_first_layer_where_it_reads_embeddings_only(tiny):
    lm, d = tiny("llama"), np.random.default_rng(0).normal(size=32)
    (tokens,) = top_source_tokens(lm, [Head(0, 1)], d, k=400).values()
    scores = {t.token: t.score for t in tokens}
    v = capture(lm, [TEXT], ["v"], [ALL], layers=[0]).get("v", ALL)[:, 0, 0]
    along = ov_factors(lm, 0).write[1].detach().numpy() @ (d / np.linalg.norm(d))
    e = lm.encode([TEXT])[0]
    for i, at in enumerate(e.content):
        token = lm.tokenizer.convert_ids_to_tokens(e.ids[at])
        assert scores[token] == pytest.approx(float(v[i] @ along), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_qk_says_how_it_was_found(tiny, architecture):
    lm, d = tiny(architecture), np.random.default_rng(0).normal(size=32)
    found = qk_scores(lm, d, PAIRS)
    assert found.values.shape == (lm.n_layers, lm.n_heads) and np.isfinite(found.values).all()
    assert found.method == ("weights" if architecture in ("gpt2", "gpt_neo") else "measured") and found.unit
    if found.method == "measured":
        with pytest.raises(ContractError, match="measured_key_scores"):
            key_scores_from_weights(lm, d)
    else:
        many = [key_scores_from_weights(lm, np.random.default_rng(i).normal(size=32)) ** 2 for i in range(60)]
        assert np.mean(many) == pytest.approx(1, abs=0.15)


def test_the_planted_head_attends_by_content(plant):
    found = measured_key_scores(plant.lm, plant.pairs)
    assert np.unravel_index(found.values.argmax(), found.values.shape) == (READER.layer, READER.index)
    assert found.values.max() > 1 and found.per_cluster.shape == (4, 4, 8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_routing_a_texts_own_pattern_changes_nothing_and_a_twins_does(tiny, architecture):
    lm = tiny(architecture)
    before = count_hooks(lm.model)
    heads = Grid.of(lm).all_heads()
    rows = [(e, BASELINE) for e in lm.encode([TEXT])]
    with lm.eager_attention():
        plain = next_token_logits(lm, rows)
        written = [*decode(lm, rows, [0], 6)]
    with routed(lm, TEXT, TEXT, heads):
        same = next_token_logits(lm, rows)
        again = [*decode(lm, rows, [0], 6)]
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
    assert again == written
    with routed(lm, TEXT, TWIN, heads):
        other = next_token_logits(lm, rows)
    assert float((other - plain).abs().max()) > 1e-3
    assert count_hooks(lm.model) == before


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "mistral", "gemma3_text"])
def test_routed_generation_under_a_cache_equals_generation_without_one(tiny, architecture):
    lm = tiny(architecture)
    heads = Grid.of(lm).all_heads()[1::2]
    with routed(lm, TEXT, TWIN, heads):
        ((_, found, _),) = decode(lm, [(e, BASELINE) for e in lm.encode([TEXT])], [0], 5)
    e, twin = lm.encode([TEXT])[0], patterns_of(lm, TWIN, range(lm.n_layers))
    ids = list(e.ids)

    def router(layer):
        chosen = [h.index for h in heads if h.layer == layer]

        def visitor(pattern):
            new = pattern.clone()
            new[:, chosen, : len(e), : len(e)] = twin[layer][chosen].to(pattern.dtype)
            return new

        return visitor

    for _ in range(5):
        with torch.inference_mode(), lm.eager_attention(), PatternHooks(lm, {n: router(n) for n in range(lm.n_layers)}):
            logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
    assert found and found == ids[len(e) :][: len(found)]


def test_routing_refuses_what_does_not_fit(tiny):
    lm = tiny("gpt2")
    before = count_hooks(lm.model)
    short = Prompt("c", "We were away")
    heads = [Head(0, 1)]
    with pytest.raises(UsageError, match="equal lengths"), routed(lm, TEXT, short, heads):
        pass
    with pytest.raises(UsageError, match="3 layers × 4 heads"), routed(lm, TEXT, TWIN, [Head(12, 99)]):
        pass
    with pytest.raises(UsageError, match="another text"), routed(lm, TEXT, TWIN, heads):
        next_token_logits(lm, [(e, BASELINE) for e in lm.encode([TWIN])])
    with pytest.raises(UsageError, match="no text has the"):
        equal_length_twin(lm, TEXT, [short])
    same_length = Prompt("d", TWIN.text)
    assert equal_length_twin(lm, TEXT, [short, same_length, TWIN]) == TWIN
    assert count_hooks(lm.model) == before


def test_a_routed_reader_stops_carrying_the_emotion(plant):
    pair, head = plant.pairs[0], READER
    rows = [(e, BASELINE) for e in plant.lm.encode([pair.clean])]
    own = float(plant.endpoint(next_token_logits(plant.lm, rows)))
    with routed(plant.lm, pair.clean, pair.donor, [head]):
        lost = float(plant.endpoint(next_token_logits(plant.lm, rows)))
    with routed(plant.lm, pair.clean, pair.donor, [Head(0, 0)]):
        kept = float(plant.endpoint(next_token_logits(plant.lm, rows)))
    assert lost < 0.5 * own and kept == pytest.approx(own, abs=0.01)


def test_planted_neurons_come_first_by_every_ranking(plant):
    writes = top_neurons(write_scores(plant.lm, axis(CONFIRMED)), 2)
    assert {n.neuron for n in writes} == set(CONFIRMERS) and [n.rank for n in writes] == [1, 2]
    active = activation_times_write(plant.lm, plant.pairs, axis(CONFIRMED)).mean(-1)
    assert {n.neuron for n in top_neurons(active, 2)} == set(CONFIRMERS)
    gradient = activation_times_gradient(plant.lm, plant.pairs, plant.endpoint).mean(-1)
    assert {n.neuron for n in top_neurons(gradient, 2)} == set(CONFIRMERS)
    with pytest.raises(UsageError):
        top_neurons(gradient, gradient.size + 1)


@pytest.mark.parametrize("direction", [np.ones(31), np.zeros(32), np.full(32, np.nan)], ids=["width", "zero", "nan"])
@pytest.mark.parametrize(
    "call",
    [
        write_scores,
        ov_scores,
        key_scores_from_weights,
        lambda lm, d: top_source_tokens(lm, [Head(0, 0)], d),
        lambda lm, d: direct_contributions(lm, [TEXT], [Reading(Site("resid_post", 1), d)], LAST),
    ],
    ids=["neurons", "ov", "qk", "tokens", "contributions"],
)
def test_what_is_no_direction_is_refused_everywhere_alike(tiny, call, direction):
    with pytest.raises(UsageError, match=r"has shape \(32,\) and is not zero; got shape") as caught:
        call(tiny("gpt2"), direction)
    assert caught.value.fix


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "gemma3_text"])
def test_activation_times_write_sums_to_the_mlp(tiny, architecture):
    lm, d = tiny(architecture), np.random.default_rng(0).normal(size=32)
    found = activation_times_write(lm, PAIRS, d)
    assert found.shape == (lm.n_layers, lm.d_mlp, 1)
    if architecture == "gemma3_text":
        return  # its norm's scale is left out
    out = [capture(lm, [p], ["mlp_out"], [LAST]).get("mlp_out", LAST)[0] for p in (PAIRS[0].clean, PAIRS[0].donor)]
    wanted = (out[0] - out[1]) @ (d / np.linalg.norm(d))
    np.testing.assert_allclose(found.sum((1, 2)), wanted, rtol=1e-3, atol=1e-4)


def test_gradient_ranking_predicts_zero_ablation_where_effects_are_small(plant):
    gradient = activation_times_gradient(plant.lm, plant.pairs, plant.endpoint, position=ALL).mean(-1)
    neurons = [Neuron(2, n) for n in range(24)]
    exact = ablate_sets(plant.lm, plant.pairs, [(n,) for n in neurons], plant.endpoint, mode="zero").changes.mean(-1)
    assert np.corrcoef(-gradient[2], exact)[0, 1] > 0.99
    assert ablate_sets(plant.lm, plant.pairs, [(MLP(3),)], plant.endpoint).changes.mean() < -0.5
