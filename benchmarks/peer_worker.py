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
from pathlib import Path
from typing import Any

import torch

Round = Callable[[], None]


def padded(job: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``[prompt, token]`` ids and mask, padded on the left."""
    width = max(map(len, job["ids"]))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in job["ids"]])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in job["ids"]])
    return ids, mask


def hugging_face(job: dict[str, Any]) -> tuple[Any, Callable[[Any], None]]:
    """The model, and a function that writes the texts of one batch with it (or with what wraps it)."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids, mask = padded(job)
    config = GenerationConfig(
        max_new_tokens=job["new_tokens"], min_new_tokens=job["new_tokens"], do_sample=False, pad_token_id=0
    )
    return model, lambda model: model.generate(ids, attention_mask=mask, generation_config=config)


def steering_vectors(job: dict[str, Any]) -> Round:
    """``with vector.apply(model): model.generate(...)``."""
    from steering_vectors import SteeringVector

    model, write = hugging_face(job)
    vectors = [SteeringVector({job["layer"]: torch.tensor(v)}) for v in job["vectors"]]

    def once() -> None:
        write(model)
        for vector in vectors:
            with vector.apply(model):
                write(model)

    return once


def repeng(job: dict[str, Any]) -> Round:
    """``model.set_raw_control(...); model.generate(...)``."""
    from repeng import ControlModel

    inner, write = hugging_face(job)
    model = ControlModel(inner, [job["layer"]])
    vectors = [torch.tensor(v) for v in job["vectors"]]

    def once() -> None:
        model.reset()
        write(model)
        for vector in vectors:
            model.set_raw_control({job["layer"]: vector})
            write(model)

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

    def once() -> None:
        bridge.generate(ids, **settings)
        for vector in vectors:
            hook = (f"blocks.{job['layer']}.hook_resid_post", lambda value, hook, vector=vector: value + vector)
            with bridge.hooks(fwd_hooks=[hook]):
                bridge.generate(ids, **settings)

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
            once()
            answer({"seconds": time.perf_counter() - start})
    return 0


if __name__ == "__main__":
    sys.exit(main())
