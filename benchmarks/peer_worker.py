"""One peer library steering the embedded model: runs in that library's environment, driven by ``peers.py``.

Reads a job file, loads the model, answers ``{"ready": true}``, then times one whole round of conditions per line of
standard input. Imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

Tokens = list[list[int]]
Round = Callable[[], Tokens]
"""One round of all conditions, the unedited one first: the new tokens of every text, condition by condition."""


def padded(job: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``[prompt, token]`` ids and mask, padded on the left."""
    width = max(map(len, job["ids"]))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in job["ids"]])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in job["ids"]])
    return ids, mask


def hugging_face(job: dict[str, Any]) -> tuple[Any, Callable[[Any], Tokens]]:
    """The model, and a function that writes the texts of one batch with it (or with what wraps it)."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(job["folder"])
    # Transformers 4 does not read the field in which Transformers 5 writes this, and would take its default.
    config.rope_theta = job["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(job["folder"], config=config, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids, mask = padded(job)
    settings = GenerationConfig(
        max_new_tokens=job["new_tokens"], min_new_tokens=job["new_tokens"], do_sample=False, pad_token_id=0
    )

    def write(model: Any) -> Tokens:
        found: Tokens = model.generate(ids, attention_mask=mask, generation_config=settings)[:, ids.shape[1] :].tolist()
        return found

    return model, write


def steering_vectors(job: dict[str, Any]) -> Round:
    """``with vector.apply(model, token_indices=…): model.generate(...)``."""
    from steering_vectors import SteeringVector

    model, write = hugging_face(job)
    vectors = [SteeringVector({job["layer"]: torch.tensor(v)}) for v in job["vectors"]]

    def once() -> Tokens:
        found = write(model)
        for vector in vectors:
            with vector.apply(model, min_token_index=None, token_indices=slice(-1, None)):
                found += write(model)
        return found

    return once


def repeng(job: dict[str, Any]) -> Round:
    """``model.set_raw_control(...); model.generate(...)``."""
    from repeng import ControlModel

    inner, write = hugging_face(job)
    model = ControlModel(inner, [job["layer"]])
    vectors = [torch.tensor(v) for v in job["vectors"]]

    def once() -> Tokens:
        model.reset()
        found = write(model)
        for vector in vectors:
            model.set_raw_control({job["layer"]: vector})
            found += write(model)
        return found

    return once


def transformer_bridge(job: dict[str, Any]) -> Round:
    """``with bridge.hooks(fwd_hooks=…): bridge.generate(...)``."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(job["folder"], device="cpu", dtype=torch.float32)
    ids, mask = padded(job)
    vectors = [torch.tensor(v) for v in job["vectors"]]
    settings: dict[str, Any] = {
        "max_new_tokens": job["new_tokens"], "do_sample": False, "stop_at_eos": False, "verbose": False,
        "return_type": "tokens", "attention_mask": mask,
    }  # fmt: skip

    def steer(value: torch.Tensor, hook: Any, vector: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, -1] += vector
        return value

    def write() -> Tokens:
        found: Tokens = bridge.generate(ids, **settings)[:, ids.shape[1] :].tolist()
        return found

    def once() -> Tokens:
        found = write()
        for vector in vectors:
            hook = (f"blocks.{job['layer']}.hook_resid_post", partial(steer, vector=vector))
            with bridge.hooks(fwd_hooks=[hook]):
                found += write()
        return found

    return once


PEERS = {"steering-vectors": steering_vectors, "repeng": repeng, "TransformerBridge": transformer_bridge}


def answer(value: dict[str, Any]) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value), flush=True)


def main() -> int:
    warnings.simplefilter("ignore")
    job = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    with torch.inference_mode():
        try:
            once = PEERS[sys.argv[1]](job)
            once()  # warm up
        except Exception as error:  # noqa: BLE001 – whatever a library of others raises is the reason to report
            answer({"error": f"{type(error).__name__}: {error}"[:300]})
            return 1
        answer({"ready": True})
        for _ in sys.stdin:
            start = time.perf_counter()
            tokens = once()
            answer({"seconds": time.perf_counter() - start, "tokens": tokens})
    return 0


if __name__ == "__main__":
    sys.exit(main())
