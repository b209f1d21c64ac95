"""How long the explorer's page waits for its first steered token, against one bare forward pass over the prompt.

Run: ``python benchmarks/explorer.py`` (half a minute on 2 cores; needs the embedded SmolLM2 and the extra [serve]).
Exits 1 when the goal is missed. Timed in turn, in one process, on the same weights:

- ours: from sending the page's request over HTTP to the arrival of the first token of the steered text: the baseline's
  row runs beside it, two emotions are added, and every layer is read;
- bare: Hugging Face's own forward pass over the prompt, one row, last logits only, nothing attached.

Directions are random here: their numbers do not change the work.
"""

from __future__ import annotations

import http.client
import json
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ratios import Ratio, finish, interleaved, parser, progress, ratio

if TYPE_CHECKING:
    from emotion_circuits.explorer.live import Live
    from emotion_circuits.models import LM

GOAL = 1.5
MODEL = "smollm2-135m"
SHORT = "The package arrived on Tuesday and"
PROMPTS = {"short": SHORT, "long": f"{SHORT} the neighbour who had signed for it was not at home. " * 8 + SHORT}


def steered_with(lm: LM, results: Path) -> Live:
    """The page's model with random directions at every layer."""
    import numpy as np

    from emotion_circuits.experiments import load_profile
    from emotion_circuits.explorer.live import Live, Loaded
    from emotion_circuits.explorer.steering import Place
    from emotion_circuits.representations.directions import DirectionSet
    from emotion_circuits.representations.readout import Reader, TokenScale

    rng, emotions = np.random.default_rng(0), ("gratitude", "anger", "apology")
    shape = (lm.n_layers, lm.d_model)
    vectors = {m: {e: rng.standard_normal(shape) for e in emotions} for m in ("neutral", "centred")}
    directions = DirectionSet(
        emotions, tuple(range(lm.n_layers)), vectors, np.zeros(shape), np.ones(shape), np.ones(lm.n_layers)
    )
    one = np.ones((lm.n_layers, len(emotions)))
    reader = Reader(directions, TokenScale(0 * one, one, 100))
    place = Place(MODEL, "quickstart", str(results))
    return Live(results, lambda name: lm, loaded=Loaded(lm, load_profile("quickstart"), reader, place))


def said(address: str, text: str) -> Iterator[dict[str, Any]]:
    """The events of one request, as they arrive."""
    parts = urlsplit(address)
    asked = {"text": text, "expression": "0.4 gratitude @ L14 - 0.2 anger @ L20", "max_new_tokens": 4}
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    headers = {"content-type": "application/json"}
    connection.request("POST", f"{parts.path}api/steer", json.dumps(asked), headers)
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
    connection.close()


def measure(repeats: int) -> list[Ratio]:
    """One ratio a prompt."""
    from emotion_circuits.explorer.serve import serve
    from emotion_circuits.models import load_lm

    lm = load_lm(MODEL, device="cpu")
    ready: queue.Queue[str] = queue.Queue()
    with tempfile.TemporaryDirectory() as folder:
        live = steered_with(lm, Path(folder))
        threading.Thread(target=serve, args=(live, 0, ready.put), daemon=True).start()
        address = ready.get(timeout=60)
        return [compared(lm, address, name, text, repeats) for name, text in PROMPTS.items()]


def compared(lm: LM, address: str, name: str, text: str, repeats: int) -> Ratio:
    """The page's first steered token over a bare forward pass, on one prompt."""
    import torch

    from emotion_circuits.models.products import inference
    from emotion_circuits.types import Prompt

    (encoded,) = lm.encode([Prompt("text", text)])
    ids = torch.tensor([encoded.ids], device=lm.device)
    open_streams: list[Iterator[dict[str, Any]]] = []

    def first_token() -> None:
        events = said(address, text)
        next(e for e in events if (e["event"], e.get("arm")) == ("token", "steered"))
        open_streams.append(events)

    def rest() -> None:  # so that the server is idle while the bare pass is timed
        assert [e["event"] for e in open_streams.pop()][-1] == "done"

    def bare() -> None:
        with inference(lm.model):  # the page's own products
            lm.model(input_ids=ids, use_cache=True, logits_to_keep=1)

    ways = {"first steered token": first_token, "its other tokens": rest, "bare forward": bare}
    for way in ways.values():  # warm up
        way()
    progress(f"{name}: {len(encoded)} tokens")
    ours, _, theirs = interleaved(ways, repeats).values()
    return ratio(f"first steered token / forward, {name}", ours, theirs, GOAL, "at most")


def main() -> int:
    chosen = parser(__doc__, repeats=15).parse_args()
    return finish(measure(chosen.repeats), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
