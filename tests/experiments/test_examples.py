"""The example notebooks run from their first cell to their last on the profile `smoke`, here on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from turned_model import save_turned

FOLDER = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MODEL, OTHER = "smollm2-135m", "gemma-3-270m"

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the examples are not part of this copy")


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory, worded: Path) -> Path:
    """The worded model in other coordinates: a second model that shares all of its emotions."""
    folder = tmp_path_factory.mktemp("models") / "turned"
    save_turned(worded, folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder, as the notebooks share one."""
    return tmp_path_factory.mktemp("examples") / "results"


def code_of(notebook: Path) -> list[str]:
    """The code cells, and nothing that an earlier run left in them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code), "clear the outputs before a commit"
    assert 10 <= len(cells) <= 20 and len(code) < len(cells)
    return ["".join(cell["source"]) for cell in code]


def run(notebook: Path, **given: Any) -> dict[str, Any]:
    """Every cell in order in one namespace; the first one only sets what ``given`` replaces."""
    mpl.use("Agg")
    names: dict[str, Any] = {}
    first, *others = code_of(notebook)
    exec(compile(first, str(notebook), "exec"), names)
    assert given.keys() <= names.keys()
    names |= given
    for number, source in enumerate(others, start=2):
        exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)
    plt.close("all")
    return names


def test_a_study_and_what_it_leaves(worded: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(FOLDER / "1-study.ipynb", MODEL=str(worded), RESULTS=str(results))
    assert not names["study"].failures and names["PROFILE"] == "smoke"
    assert "Question 1. Where is each emotion?" in capsys.readouterr().out
    assert list(names["results"]["emotion"]) == ["gratitude", "anger", "apology"]
    assert [line.get_label() for line in names["left"].get_lines()] == ["gratitude", "anger", "apology"]
    assert names["alike"].shape == (3, 3) and names["alike"].abs().to_numpy().max() < 1
    assert (results / "smoke" / "report" / "report.html").is_file()


def test_steering_a_sentence(worded: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(FOLDER / "2-steer.ipynb", MODEL=str(worded), RESULTS=str(results))
    assert list(names["texts"].index) == [-0.3, -0.15, 0.0, 0.15, 0.3]
    assert names["texts"].nunique() > 1, "strengths change what is written"
    assert capsys.readouterr().out.count(names["TEXT"]) == 5
    own, *others = names["ax"].get_lines()
    assert own.get_label() == "gratitude" and len(others) == 3
    assert len({line.get_ydata()[2] for line in (own, *others)}) == 1, "all curves meet at strength 0"


def test_two_models_side_by_side(worded: Path, turned: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(FOLDER / "3-two-models.ipynb", MODELS=[str(worded), str(turned)], RESULTS=str(results))
    assert not names["study"].failures and names["PROFILE"] == "smoke"
    said = capsys.readouterr().out
    assert "worded-llama" in said and " → " in said and "highest floor" in said
    assert names["figures"].shape[1] == 2 and {"transfer", "native"} <= {*names["figures"].index}
    assert [len(ax.get_images()) for ax in names["axes"][0]] == [1, 1]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_start_from_embedded_models_and_the_shared_results(notebook: Path) -> None:
    names: dict[str, Any] = {}
    exec(code_of(notebook)[0], names)
    assert names.get("MODEL", MODEL) == MODEL and names.get("MODELS", [MODEL, OTHER]) == [MODEL, OTHER]
    assert names["RESULTS"] == "../results"
