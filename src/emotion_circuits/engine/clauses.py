"""The clauses of the contract that every supported model keeps, each checked on the model itself.

What counts as exact: hooks that change nothing are bit-equal to no hooks; across batch shapes logits may differ by
rounding (``SHAPE_TOLERANCE`` of their standard deviation), and tokens agree until the first step whose two best logits
are closer than ``TIE``. A clause returns whether it holds and the figure that was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationConfig

from emotion_circuits.engine.batching import pad
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, decode, next_token_logits, stop_ids
from emotion_circuits.engine.hooks import Hooks, count_hooks
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.engine.taps import tap
from emotion_circuits.errors import ModelError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.rounding import TOLERANCE
from emotion_circuits.models.weights import head_weights, neuron_outputs, norm_epsilon, parameter
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site, SiteKind

SHAPE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 3e-2}
"""Largest |Δ logit| across batch shapes, in SD of the logits: rounding that grows over all layers (.1 was measured on
30 layers in bfloat16)."""
TIE = 1e-3
SINK_RATIO = 3.0
NEW_TOKENS = 12

TEXTS = (
    "The parcel arrived on Tuesday.",
    "Thank you for walking the dog while we were away at the weekend.",
    "He parked in my space again, and I had to leave the car three streets away in the rain.",
    "I told her the wrong time.",
)
PROMPTS = tuple(Prompt(f"check-{i}", text) for i, text in enumerate(TEXTS))
ALL, LAST = Positions("all"), Positions("last")

Clause = Callable[[LM], tuple[bool, str]]


def _noop_is_exact(lm: LM) -> tuple[bool, str]:
    """Hooks on every tap that change nothing leave the logits of Hugging Face's own forward bit-equal."""
    encoded = lm.encode(PROMPTS[1:2])[0]
    ids = torch.tensor([encoded.ids], device=lm.device)
    kinds: list[SiteKind] = ["resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "neuron"]
    hooks = Hooks()
    for layer in range(lm.n_layers):
        for kind in kinds:
            t = tap(lm, kind, layer)
            hooks.visit(t.module, t.side, f"L{layer}.{kind}", lambda x: None)
    with torch.inference_mode():
        plain = lm.model(input_ids=ids).logits
        with hooks:
            positions = torch.arange(ids.shape[1], device=lm.device).unsqueeze(0)
            hooked = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits
    return bool(torch.equal(plain, hooked)), f"max |Δ| {(plain - hooked).abs().max():.0e}, {len(hooks.fired)} taps"


def _residual_chain(lm: LM) -> tuple[bool, str]:
    """resid_post = next resid_pre; resid_pre + attn_out (+ mlp_out) adds up to resid_post."""
    kinds: list[SiteKind] = ["resid_pre", "resid_post", "attn_out", "mlp_out"]
    middle: list[SiteKind] = [] if lm.parallel else ["resid_mid"]
    a = capture(lm, PROMPTS, [*kinds, *middle], [ALL])
    pre, post, attention, mlp = (a.get(k, ALL) for k in kinds)
    joined = bool(np.array_equal(post[:, :-1], pre[:, 1:]))
    error = _relative(pre + attention + mlp, post)
    if middle:
        error = max(error, _relative(pre + attention, a.get("resid_mid", ALL)))
    return joined and error <= _tolerance(lm), f"blocks join exactly: {joined}; sum of parts off by {error:.0e}"


def _norms(lm: LM) -> tuple[bool, str]:
    """The attention norm is of the family's kind; after it, per-head weights give q, k and v; then the final norm."""
    rows = PROMPTS[:2]
    kinds: list[SiteKind] = ["resid_pre", "resid_post", "q", "k", "v"]
    a = capture(lm, rows, kinds, [LAST])
    group, worst, kind_of_norm = lm.n_heads // lm.n_kv_heads, 0.0, 0.0

    with torch.inference_mode():
        for row, layer in enumerate(a.layers):
            norm, before = lm.module(layer, "attention_norm"), torch.from_numpy(a.get("resid_pre", LAST)[:, row].copy())
            x = _normed(lm, norm, before)
            by_formula = _norm_formula(lm, norm, before)
            kind_of_norm = max(kind_of_norm, float((x - by_formula).abs().max() / x.abs().max()))
            w = head_weights(lm, layer)
            for kind, weight, bias in (("q", w.w_q, w.b_q), ("k", w.w_k, w.b_k), ("v", w.w_v, w.b_v)):
                found = torch.einsum("rm,hmd->rhd", x, weight.cpu()) + bias.cpu()
                wanted = torch.from_numpy(a.get(cast(SiteKind, kind), LAST)[:, row].copy())
                if kind != "q":
                    wanted = wanted.repeat_interleave(group, 1)
                worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max()))
        last = _normed(lm, lm.final_norm, torch.from_numpy(a.get("resid_post", LAST)[:, -1].copy()))
        output = []
        for e in lm.encode(rows):
            ids = torch.tensor([e.ids], device=lm.device)
            output.append(lm.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float().cpu())
    final = _relative(last.unsqueeze(1).numpy(), torch.stack(output).unsqueeze(1).numpy())
    good = max(worst, final, kind_of_norm) <= _tolerance(lm)
    return good, f"{lm.family.norm} norm off by {kind_of_norm:.0e}; q, k, v by {worst:.0e}; final norm by {final:.0e}"


def _normed(lm: LM, norm: nn.Module, x: Tensor) -> Tensor:
    """What the model's own norm makes of ``x`` ``[row, d_model]``, as float32 on the CPU."""
    device = next((p.device for p in norm.parameters() if not p.is_meta), lm.device)
    return cast(Tensor, norm(x.to(device, lm.dtype))).float().cpu()


def _norm_formula(lm: LM, norm: nn.Module, x: Tensor) -> Tensor:
    """What a norm of the family's kind makes of ``x`` ``[row, d_model]`` with this norm's parameters."""
    weight, bias = parameter(norm), parameter(norm, "bias")
    eps = norm_epsilon(norm)
    w = torch.ones(x.shape[-1]) if weight is None else weight.float().cpu()
    b = torch.zeros(x.shape[-1]) if bias is None else bias.float().cpu()
    if lm.family.norm == "layer":
        return nn.functional.layer_norm(x, x.shape[-1:], w, b, eps)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (w + (lm.family.norm == "rms-plus-one")) + b


def _queries_and_keys(lm: LM) -> tuple[bool, str]:
    """A zeroed query or key evens out the scores of its own heads and leaves the patterns of all others alone."""
    layer, group = lm.n_layers // 2, lm.n_heads // lm.n_kv_heads
    encoded = lm.encode(PROMPTS[1:2])[0]
    edits = [(Site("q", layer, h), LAST, [h]) for h in range(min(lm.n_heads, 4))]
    edits += [(Site("k", layer, h), ALL, list(range(h * group, (h + 1) * group))) for h in range(min(lm.n_kv_heads, 4))]
    conditions = [Condition(str(site), (Intervention(site, "zero", where),)) for site, where, _ in edits]
    seen: list[Tensor] = []
    with lm.eager_attention(), PatternHooks(lm, {layer: lambda p: seen.append(p.float().cpu())}):
        next_token_logits(lm, [(encoded, c) for c in (BASELINE, *conditions)])
    untouched, uneven, key_acts = True, 0.0, False
    for (site, _, heads), pattern in zip(edits, seen[0][1:], strict=True):
        moved = (pattern - seen[0][0]).abs().flatten(1).amax(1) > 0.1 * _tolerance(lm)  # rows differ by rounding
        others = torch.ones(lm.n_heads, dtype=torch.bool)
        others[heads] = False
        # The keys of prefix tokens stay as they are: only content keys must be equal among themselves.
        even = pattern[heads, -1] if site.kind == "q" else pattern[heads, -1][:, encoded.content]
        for row in even:
            attended = row[row > 0]  # a local layer does not see all
            if len(attended):
                uneven = max(uneven, float((attended.max() - attended.min()) / attended.max()))
        untouched = untouched and not bool(moved[others].any())
        # A head that gives everything to the prefix keeps doing so without content keys.
        untouched = untouched and (site.kind == "k" or bool(moved[heads].all()))
        key_acts = key_acts or (site.kind == "k" and bool(moved[heads].any()))
    good = untouched and key_acts and uneven <= _tolerance(lm)
    return good, f"each edit moves its own heads only: {untouched}; what it evens out differs by {uneven:.0e}"


def _results_sum(lm: LM) -> tuple[bool, str]:
    """The sum of head results plus the output bias is attn_out, at every layer."""
    a = capture(lm, PROMPTS[:2], ["result", "attn_out"], [LAST])
    total = a.get("result", LAST).sum(2)
    for row, layer in enumerate(a.layers):
        total[:, row] += head_weights(lm, layer).b_o.cpu().numpy()
    error = _relative(total, a.get("attn_out", LAST))
    return error <= _tolerance(lm), f"largest relative error {error:.0e} over {lm.n_layers} layers"


def _neurons_sum(lm: LM) -> tuple[bool, str]:
    """Neurons times their write vectors plus the bias (then the norm after the MLP, if any) is mlp_out."""
    a = capture(lm, PROMPTS[:2], ["neuron", "mlp_out"], [LAST])
    error = 0.0
    with torch.inference_mode():
        for row, layer in enumerate(a.layers):
            weight, bias = neuron_outputs(lm, layer)
            found = torch.from_numpy(a.get("neuron", LAST)[:, row].copy()) @ weight.cpu() + bias.cpu()
            if lm.family.post_mlp_norm:
                found = _normed(lm, lm.module(layer, "post_mlp_norm"), found)
            wanted = torch.from_numpy(a.get("mlp_out", LAST)[:, row].copy())
            error = max(error, float((found - wanted).abs().max() / wanted.abs().max()))
    return error <= _tolerance(lm), f"largest relative error {error:.0e}, {lm.d_mlp} neurons per layer"


def _z_is_pattern_times_v(lm: LM) -> tuple[bool, str]:
    """z = pattern · v with key/value heads shared by h // (H / H_kv); another head order must not fit."""
    with lm.eager_attention():
        a = capture(lm, PROMPTS[1:2], ["pattern", "z"], [ALL])
    v_all = _values_with_prefix(lm)
    pattern, z = (torch.from_numpy(np.array(a.get(k, ALL))) for k in ("pattern", "z"))
    pattern = pattern[..., : v_all.shape[1]]
    v_heads = v_all.repeat_interleave(lm.n_heads // lm.n_kv_heads, 2)
    rebuilt = torch.einsum("tlhk,lkhd->tlhd", pattern, v_heads)
    right, wrong = (_relative(r.numpy(), z.numpy()) for r in (rebuilt, rebuilt.flip(2)))
    good = right <= _tolerance(lm) and (lm.n_heads == 1 or wrong > 10 * _tolerance(lm))
    return good, f"relative error {right:.0e}; with heads in another order {wrong:.1f}"


def _values_with_prefix(lm: LM) -> Tensor:
    """Value vectors ``[layer, token, kv_head, d_head]`` of the second text, prefix included (it is no content)."""
    encoded = lm.encode(PROMPTS[1:2])[0]
    seen: list[Tensor] = []

    def reader(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
        return lambda x: seen.append(view(x)[0].float().cpu())

    hooks = Hooks()
    for layer in range(lm.n_layers):
        t = tap(lm, "v", layer)
        hooks.visit(t.module, t.side, f"L{layer}.v", reader(t.view))
    with torch.inference_mode(), lm.eager_attention(), hooks:
        lm.decoder(input_ids=torch.tensor([encoded.ids], device=lm.device), use_cache=False)
    return torch.stack(seen)


def _padding_changes_nothing(lm: LM) -> tuple[bool, str]:
    """Left-padded rows give the logits of the same texts alone."""
    rows = [(e, BASELINE) for e in lm.encode(PROMPTS)]
    together = next_token_logits(lm, rows).float()
    alone = torch.cat([next_token_logits(lm, [row]) for row in rows]).float()
    error = float((together - alone).abs().max() / alone.std())
    return error <= SHAPE_TOLERANCE[lm.dtype], f"max |Δ logit| {error:.0e} of their SD"


def _decode_is_generate(lm: LM) -> tuple[bool, str]:
    """The decode loop writes what ``model.generate`` writes, token for token."""
    encoded = lm.encode(PROMPTS)
    batch = pad(lm, encoded, range(len(encoded)), "left")
    # A configuration of its own: published ones sample, penalise repetition or suppress tokens.
    plain = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=sorted(stop_ids(lm)) or None,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    with torch.inference_mode():
        out = cast(Any, lm.model).generate(
            batch.ids, attention_mask=batch.mask, generation_config=plain,
        )  # fmt: skip
    theirs = out.sequences[:, batch.ids.shape[1] :]
    ours = decode(lm, [(e, BASELINE) for e in encoded], range(len(encoded)), NEW_TOKENS)
    compared = 0
    for row, tokens, _ in ours:
        for step, token in enumerate(tokens):
            best = out.scores[step][row].float().topk(2).values
            if token != int(theirs[row, step]):
                tie = float(best[0] - best[1]) < max(TIE, TIE * _tolerance(lm) / 1e-4)
                if not tie:
                    return False, f"row {row} differs from generate at step {step}"
                break
            compared += 1
    return compared >= len(encoded), f"{compared} tokens equal"


def _packed_is_separate(lm: LM) -> tuple[bool, str]:
    """Every head of a middle layer ablated in its own row of one batch = one run per head."""
    layer = lm.n_layers // 2
    ablations = [
        Condition(f"head {h}", (Intervention(Site("z", layer, h), "zero", ALL),)) for h in range(min(lm.n_heads, 4))
    ]
    encoded = lm.encode(PROMPTS[1:2])[0]
    packed = next_token_logits(lm, [(encoded, c) for c in (BASELINE, *ablations)]).float()
    separate = torch.cat([next_token_logits(lm, [(encoded, c)]) for c in (BASELINE, *ablations)]).float()
    error = float((packed - separate).abs().max() / separate.std())
    acts = float((packed[1:] - packed[:1]).abs().max() / separate.std())
    good = error <= SHAPE_TOLERANCE[lm.dtype] and acts > 10 * error
    return good, f"max |Δ logit| {error:.0e} of their SD; ablations move logits by {acts:.2f}"


def _zero_strength_is_exact(lm: LM) -> tuple[bool, str]:
    """Adding 0 × v is bit-equal to the same rows with no edit."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(lm.d_model)
    site = Site("resid_post", lm.n_layers // 2)
    encoded = lm.encode(PROMPTS)
    none = next_token_logits(lm, [(e, BASELINE) for e in encoded])
    zero = Condition("zero", (Intervention(site, "add", ALL, vector, 0.0),))
    some = Condition("some", (Intervention(site, "add", ALL, vector, 1.0),))
    same = bool(torch.equal(none, next_token_logits(lm, [(e, zero) for e in encoded])))
    moved = float((none - next_token_logits(lm, [(e, some) for e in encoded])).abs().max())
    return same and moved > 0, f"bit-equal: {same}; at strength 1 logits move by {moved:.1e}"


def _patterns(lm: LM) -> tuple[bool, str]:
    """Patterns read through the softmax tap are the model's own, and editing one changes the logits."""
    encoded = lm.encode(PROMPTS[1:2])[0]
    ids = torch.tensor([encoded.ids], device=lm.device)
    layer = lm.n_layers // 2
    read: list[Tensor] = []
    with torch.inference_mode(), lm.eager_attention():
        base = lm.model(input_ids=ids, output_attentions=True, use_cache=False)
        with PatternHooks(lm, {layer: lambda p: read.append(p)}):
            seen = lm.model(input_ids=ids, use_cache=False).logits
        with PatternHooks(lm, {layer: torch.zeros_like}):
            edited = lm.model(input_ids=ids, use_cache=False).logits
    exact = bool(torch.equal(read[0].to(base.attentions[layer].dtype), base.attentions[layer]))
    untouched = bool(torch.equal(seen, base.logits))
    moved = float((edited - base.logits).abs().max())
    good = exact and untouched and moved > 0
    return good, f"read exactly: {exact}; reading changes nothing: {untouched}; an edit moves logits by {moved:.1e}"


def _prefix_takes_the_sink(lm: LM) -> tuple[bool, str]:
    """The first content token's residual norm is within 3 × the median: the prefix, not the text, is the sink."""
    a = capture(lm, PROMPTS, ["resid_post"], [ALL], layers=[lm.n_layers // 2])
    norms = np.linalg.norm(a.get("resid_post", ALL)[:, 0], axis=-1)
    first = norms[list(a.token_starts[:-1])]
    ratio = float(first.max() / np.median(norms))
    token = lm.tokenizer.convert_ids_to_tokens(list(lm.prefix_ids)) or "none"
    return ratio <= SINK_RATIO, f"first token {ratio:.1f} × the median norm (prefix {token})"


def _nothing_left_behind(lm: LM) -> tuple[bool, str]:
    """No hook survives, not even an exception inside the forward."""
    before = count_hooks(lm.model)
    t = tap(lm, "resid_post", 0)
    hooks = Hooks()

    def fail(x: Tensor) -> None:
        raise ModelError("raised on purpose")

    hooks.visit(t.module, t.side, "L0.resid_post", fail)
    raised = False
    try:
        with torch.inference_mode(), hooks:
            lm.decoder(input_ids=torch.zeros(1, 2, dtype=torch.long, device=lm.device))
    except ModelError:
        raised = True
    left = count_hooks(lm.model) - before
    return raised and left == 0, f"{left} hooks left"


CLAUSES: dict[str, Clause] = {
    "hooks that change nothing are bit-exact": _noop_is_exact,
    "residual stream adds up": _residual_chain,
    "norms and per-head weights give q, k, v": _norms,
    "queries and keys belong to their heads": _queries_and_keys,
    "head results + bias = attn_out": _results_sum,
    "neurons + bias = mlp_out": _neurons_sum,
    "z = pattern × v": _z_is_pattern_times_v,
    "left-padded = unpadded": _padding_changes_nothing,
    "own decode = generate": _decode_is_generate,
    "packed rows = separate runs": _packed_is_separate,
    "strength 0 is bit-exact": _zero_strength_is_exact,
    "patterns read and edited": _patterns,
    "prefix holds the attention sink": _prefix_takes_the_sink,
    "no hook left behind": _nothing_left_behind,
}


ABOUT_WEIGHTS = frozenset({"prefix holds the attention sink"})
"""Clauses that say something about trained weights; random weights need not keep them."""


def _tolerance(lm: LM) -> float:
    return TOLERANCE[lm.dtype]


def _relative(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest error of any layer (axis 1) as a fraction of that layer's largest value."""
    other = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    scale = np.abs(wanted).max(other)
    return float((np.abs(found - wanted).max(other) / np.maximum(scale, 1e-30)).max())
