"""Tokens per second of packed sweeps on an accelerator, against bare ``generate`` and condition by condition.

Run: ``python benchmarks/gpu.py`` (a GPU; says so and ends with 0 where there is none). bfloat16 and sdpa attention,
interleaved and repeated; the device is synchronised around every timing. ``--device cpu --model random-tiny`` tries the
script itself. Models: an alias, hub id or folder, or ``random-8b``, ``random-1b``, ``random-tiny``: a Llama of that
shape with random weights, which takes the same time as a trained one and needs no download.

- packed: all rows (prompt × condition), each with its own edit, through :func:`emotion_circuits.engine.generate`;
- bare: ``model.generate`` on the same number of rows, with no hook;
- condition by condition: ``model.generate`` on the batch of prompts with one hook, for every condition;
- scores: rows (prompt × vector) whose next token is scored, per second.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ratios import Ratio, finish, interleaved, parser, progress, ratio

if TYPE_CHECKING:
    from emotion_circuits.models import LM

SHAPES: dict[str, dict[str, Any]] = {
    "random-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                  "num_key_value_heads": 8, "vocab_size": 128256},
    "random-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                  "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256},
    "random-tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip
TEXTS = (
    "The parcel arrived on Tuesday and", "My neighbour painted the fence because",
    "The bus driver waited at the corner while", "She opened the letter from the office and",
    "After the meeting we walked to the station and", "The library closes at six today, so",
    "He found two old books in the kitchen and", "The nurse came back after lunch and said",
)  # fmt: skip


def load(name: str, device: str, dtype: str) -> LM:
    """The model to time, on the device."""
    from emotion_circuits.models import load_lm

    if name not in SHAPES:
        return load_lm(name, device=device, dtype=dtype)
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[name], max_position_embeddings=4096, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    with torch.device(device):  # drawn where it runs: 8 billion numbers take minutes on a CPU
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return load_lm(model.eval(), _byte_tokenizer())


def _byte_tokenizer() -> Any:
    """A token per byte: texts of a fixed length, whatever the model's vocabulary is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, **{letter: n + 1 for n, letter in enumerate(letters)}}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def measure(lm: LM, conditions: int, new_tokens: int, vectors: int, repeats: int) -> list[Ratio]:
    """Every way in turn, after one that is not counted."""
    import numpy as np
    import torch
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate, log_sum_exp_difference, score
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.types import Condition, Prompt, Site

    lm.model.generation_config.eos_token_id = None  # every way writes the same number of tokens
    lm.tokenizer.eos_token = None
    prompts = [Prompt(str(n), text) for n, text in enumerate(TEXTS)]
    encoded, site = lm.encode(prompts), Site("resid_post", lm.n_layers // 2)
    drawn = np.random.default_rng(0).standard_normal((max(vectors, conditions - 1), lm.d_model))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    steered = [Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(drawn)]
    packed_conditions = [BASELINE, *steered[: conditions - 1]]
    config = GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    @contextmanager
    def hooked(vector: Any) -> Iterator[None]:
        added = torch.as_tensor(vector, dtype=lm.dtype, device=lm.device)

        def hook(module: Any, args: Any, output: Any) -> Any:
            output = output.clone()
            output[:, -1] += added
            return output

        handle = lm.blocks[site.layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def theirs(rows: list[Any]) -> None:
        batch = pad(lm, rows, range(len(rows)), "left")
        lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)

    def by_condition() -> None:
        theirs(encoded)
        for vector in drawn[: conditions - 1]:
            with hooked(vector):
                theirs(encoded)

    def synchronised(way: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            way()
            if lm.device.type == "cuda":
                torch.cuda.synchronize()

        return timed

    metric = log_sum_exp_difference([10, 11], [12, 13])
    ways: dict[str, Callable[[], object]] = {
        "packed": lambda: generate(lm, prompts, packed_conditions, Sampling(new_tokens)),
        "bare generate": lambda: theirs([e for e in encoded for _ in packed_conditions]),
        "condition by condition": by_condition,
        "scores": lambda: score(lm, prompts, steered[:vectors], [metric]),
    }
    timed = {name: synchronised(way) for name, way in ways.items()}
    with torch.inference_mode():
        for way in timed.values():
            way()  # warm up: kernels are chosen, memory is taken
        seconds = interleaved(timed, repeats)
    tokens = len(prompts) * conditions * new_tokens
    for name in ("packed", "bare generate", "condition by condition"):
        print(f"{name:24} {tokens / statistics.median(seconds[name]):10.0f} tokens/s")
    print(f"{'scores':24} {len(prompts) * vectors / statistics.median(seconds['scores']):10.0f} rows/s")
    if lm.device.type == "cuda":
        print(f"{'peak memory':24} {torch.cuda.max_memory_allocated() / 1e9:10.1f} GB")
    return [
        ratio("packed vs condition by condition", seconds["condition by condition"], seconds["packed"]),
        ratio("packed vs bare generate", seconds["bare generate"], seconds["packed"]),
    ]


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--device", default="cuda", choices=["cuda", "mps", "cpu"])
    options.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    options.add_argument("--model", default="random-1b", help="alias, hub id, folder, or " + ", ".join(SHAPES))
    options.add_argument("--conditions", type=int, default=32, help="of the packed sweep, the baseline among them")
    options.add_argument("--new-tokens", type=int, default=64)
    options.add_argument("--vectors", type=int, default=256, help="scored on every prompt")
    given = options.parse_args()
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there[given.device]:
        print(f"no {given.device} device on this machine: nothing was measured (--device cpu tries the script)")
        return 0
    name = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    lm = load(given.model, given.device, given.dtype)
    gc.collect()
    parameters = sum(p.numel() for p in lm.model.parameters())
    progress(
        f"{given.model}: {parameters / 1e9:.3g} billion parameters, {given.dtype}, {name}, torch {torch.__version__}"
    )
    return finish(measure(lm, given.conditions, given.new_tokens, given.vectors, given.repeats), given.json)


if __name__ == "__main__":
    sys.exit(main())
