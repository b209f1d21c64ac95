"""Does bfloat16 change the answers? Directions and a sweep in both number types on one model.

Run: ``python benchmarks/dtypes.py`` (some seven minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when a goal is
missed. ``run sweep --profile quickstart`` once in float32 and once in bfloat16, each in an empty results folder: the
directions that it fits, the cells that it chooses and their verdicts.

- verdicts: of every emotion, whether a cause was established; the share that is the same;
- directions: the smallest cosine between the two over emotions and layers;
- the effect on the endpoint in bfloat16 over that in float32, an emotion each (the cells may be different ones).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ratios import Ratio, finish, parser, progress, summary

MODEL, PROFILE = "smollm2-135m", "quickstart"


def swept(results: Path, dtype: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The declared cell of every emotion, and the directions ``{name: [layer, d_model]}`` of a sweep."""
    from safetensors.numpy import load_file

    line = [sys.executable, "-m", "emotion_circuits", "run", "sweep", "--model", MODEL, "--profile", PROFILE,
            "--dtype", dtype, "--results", str(results), "--quiet", "--json"]  # fmt: skip
    told = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
    (tensors,) = results.glob(f"{PROFILE}/*/directions/*/directions.safetensors")
    return told["test"], {name: v for name, v in load_file(tensors).items() if "/neutral/" in name}


def measure() -> list[Ratio]:
    """Both sweeps, and what differs."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        (full, vectors), (half, others) = (swept(Path(folder, dtype), dtype) for dtype in ("float32", "bfloat16"))
    for name, found in (("float32", full), ("bfloat16", half)):
        for r in found:
            progress(f"{name} {r['emotion']}: layer {r['layer']}, α {r['alpha']}, {r['effect']:+.2f} nats, "
                     f"{'established' if r['established'] else 'not established'}")  # fmt: skip
    cosines = [float(np.min(_cosines(v, others[name]))) for name, v in vectors.items()]
    same = [a["established"] == b["established"] for a, b in zip(full, half, strict=True)]
    cells = [(a["layer"], a["alpha"]) == (b["layer"], b["alpha"]) for a, b in zip(full, half, strict=True)]
    return [
        summary("verdicts of the sweep equal in bfloat16", [sum(same) / len(same)], 1.0),
        summary("cells chosen on dev equal in bfloat16", [sum(cells) / len(cells)]),
        summary("least cosine of directions in bfloat16", [min(cosines)]),
        summary("effect, bfloat16 / float32", [b["effect"] / a["effect"] for a, b in zip(full, half, strict=True)]),
    ]


def _cosines(a: Any, b: Any) -> Any:
    import numpy as np

    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def main() -> int:
    chosen = parser(__doc__, repeats=1).parse_args()
    return finish(measure(), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
