"""The example notebook runs from its first cell to its last, here on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="the examples are not part of this copy")
def test_the_quickstart_notebook_draws_a_curve_for_each_emotion(model: Path) -> None:
    mpl.use("Agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 'MODEL = "smollm2-135m"' in code[0]
    names: dict[str, Any] = {"MODEL": str(model)}
    for source in code[1:]:
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    curves = names["ax"].get_lines()
    plt.close(names["fig"])
    assert {curve.get_label() for curve in curves} == set(names["directions"].vectors["neutral"])
    assert all(len(curve.get_ydata()) == names["lm"].n_layers for curve in curves)
