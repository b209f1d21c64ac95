"""The packed sweep against libraries that people steer with, each in an environment of its own.

Run: ``python benchmarks/peers.py`` (the first run installs the libraries into ``.venv-peers``, some 3 GB; later runs
take about five minutes on 2 cores). The work is that of ``generation.py``: 8 prompts × 15 conditions × 20 greedy
tokens in float32 on the embedded SmolLM2, a vector added to one block's output from the prompt's last token on (repeng
adds at every token, and so do we beside it). Every library gets a batch of the 8 prompts, one condition after the
other; it runs in a process that stays alive, in turn with ours. Its texts are compared with ours. A library that cannot
be installed or started is named with its reason, and the others go on.

TransformerBridge (4.x with Transformers 5.23) writes broken texts with its cache of keys and values, of a single prompt
too, and ours token for token without it. It is timed with the cache, the faster of the two.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from generation import CONDITIONS, MODEL, NEW_TOKENS, TEXTS
from ratios import Ratio, Seconds, finish, interleaved, parser, progress, ratio, summary

GOAL = 5.0
HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venv-peers"
TORCH = "torch==2.13.0"
EVERYWHERE = ("repeng",)
"""Peers that can only add at every token."""
PEERS = {
    # These two need Transformers 4; TransformerBridge needs 5.
    "steering-vectors": ("four", ("transformers<5", "steering-vectors", "repeng")),
    "repeng": ("four", ("transformers<5", "steering-vectors", "repeng")),
    "TransformerBridge": ("bridge", ("transformer-lens>=4",)),
}


class NotHereError(Exception):
    """A library cannot be compared on this machine; the text says why."""


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of a peer's environment, made on first use."""
    folder = ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists():
        progress(f"installing {' '.join(packages)}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # torch by itself first: a resolver that may choose takes a build of several gigabytes.
        for wanted in ((TORCH,), (TORCH, *packages)):
            done = subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", *wanted], check=False, capture_output=True, text=True
            )
            if done.returncode:
                raise NotHereError(f"pip could not install {' '.join(wanted)}: {done.stderr.strip()[-200:]}")
        stamp.write_text(" ".join(packages))
    return python


@contextmanager
def worker(peer: str, job: Path) -> Iterator[subprocess.Popen[str]]:
    """A running peer that has loaded the model and waits for work."""
    python = environment(*PEERS[peer])
    process = subprocess.Popen(
        [str(python), str(HERE / "peer_worker.py"), peer, str(job)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        ask(process)  # ready, warmed up
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str], command: str = "") -> Any:
    """Send a line (none: only wait) and read the answer."""
    assert process.stdin is not None and process.stdout is not None
    if command:
        process.stdin.write(command + "\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):  # libraries print lines of their own
            answer = json.loads(line)
            if "error" in answer:
                raise NotHereError(answer["error"])
            return answer
    raise NotHereError(f"it ended with exit code {process.wait()}")


def main() -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--only", nargs="+", choices=sorted(PEERS), default=sorted(PEERS))
    chosen = options.parse_args()

    import torch

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.models import load_lm
    from emotion_circuits.models.sources import resolve_source
    from emotion_circuits.types import Condition, Positions, Prompt, Site

    lm = load_lm(MODEL, device="cpu")
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token = None  # all write the same number of tokens
    rng, layer = np.random.default_rng(0), lm.n_layers // 2
    vectors = rng.standard_normal((CONDITIONS - 1, lm.d_model)).astype(np.float32)
    vectors *= 30 / np.linalg.norm(vectors, axis=1, keepdims=True)
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    site = Site("resid_post", layer)
    conditions = {
        at: [BASELINE, *(Condition(f"v{n}", (add(site, v, 1.0, Positions(at)),)) for n, v in enumerate(vectors))]
        for at in ("onward", "all")
    }
    job = {
        "folder": str(resolve_source(MODEL).folder), "layer": layer, "new_tokens": NEW_TOKENS,
        "vectors": vectors.tolist(), "ids": [list(e.ids) for e in lm.encode(prompts)],
        "threads": torch.get_num_threads(), "rope_theta": lm.config.rope_parameters["rope_theta"],
    }  # fmt: skip

    def ours(at: str) -> list[list[int]]:
        """Condition by condition, as peers write."""
        found = {(g.condition, g.prompt): g.tokens for g in generate(lm, prompts, conditions[at], Sampling(NEW_TOKENS))}
        return [list(found[c.name, p.id]) for c in conditions[at] for p in prompts]

    ours("onward")  # warm up
    rows: list[Ratio] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        workers = {}
        for peer in chosen.only:
            try:
                workers[peer] = stack.enter_context(worker(peer, path))
            except NotHereError as reason:
                progress(f"{peer}: skipped, {reason}")
                missing[peer] = str(reason)
        answers: dict[str, Any] = {}

        def asked(peer: str) -> Seconds:
            answers[peer] = ask(workers[peer], "run")
            return Seconds(answers[peer]["seconds"])

        ways: dict[str, Callable[[], object]] = {"onward": lambda: ours("onward"), "all": lambda: ours("all")}
        ways |= {peer: functools.partial(asked, peer) for peer in workers}
        seconds = interleaved(ways, chosen.repeats)
        for peer in workers:
            at = "all" if peer in EVERYWHERE else "onward"
            rows.append(ratio(f"packed sweep vs {peer}", seconds[peer], seconds[at], GOAL))
            same = [a == b for a, b in zip(ours(at), answers[peer]["tokens"], strict=True)]
            rows.append(summary(f"texts equal to {peer}'s", [sum(same) / len(same)]))
    return finish(rows, chosen.json, missing)


if __name__ == "__main__":
    sys.exit(main())
