"""The tree keeps its promises: import order, light command line, hooks in one place, short files, nothing unpickled."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import emotion_circuits

ROOT = Path(emotion_circuits.__file__).parent
PACKAGE = "emotion_circuits"
MODULES = sorted(ROOT.rglob("*.py"))

ORDER: tuple[frozenset[str], ...] = tuple(
    frozenset(level.split())
    for level in (
        "errors",
        "types",
        "store",
        "stats prompts",
        "models",
        "engine",
        "representations circuits scorers",
        "studies experiments",
        "report tracking runners explorer",
        "exports",
        "cli",
        "__main__",
    )
)
"""A module imports from its own part and from lines above; parts on one line do not know each other."""

MODEL_FREE = ("store", "stats", "prompts")
MODEL_CODE = frozenset({"torch", "transformers", "accelerate", "tokenizers", "gguf", "transformer_lens"})
HEAVY = ("torch", "numpy", "pandas", "scipy", "transformers", "pyarrow", "matplotlib", "sklearn")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def level_of(part: str) -> int:
    return next(i for i, level in enumerate(ORDER) if part in level)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, also inside functions and for type checkers only."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts_imported_by(path: Path) -> set[str]:
    own = {name.split(".")[1] for name in imports_of(path) if name.startswith(f"{PACKAGE}.")}
    return own - {"__version__"}


def test_every_part_has_its_place_in_the_order() -> None:
    known = frozenset().union(*ORDER) | {"__init__"}
    assert {part_of(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) != "__init__"], ids=name_of)
def test_imports_follow_the_order(path: Path) -> None:
    part = part_of(path)
    wrong = {other for other in parts_imported_by(path) - {part} if level_of(other) >= level_of(part)}
    assert not wrong, f"{part} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in MODEL_FREE], ids=name_of)
def test_no_model_code_in_numbers_files_and_texts(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & MODEL_CODE


IMPORT_EACH = """
import importlib, json, sys
heavy, found = json.loads(sys.argv[1]), {}
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
    loaded = [module for module in heavy if module in sys.modules]
    if loaded:
        found[name] = loaded
        heavy = [module for module in heavy if module not in loaded]
sys.stdout.write(json.dumps(found))
"""


def test_command_line_and_parameter_models_import_nothing_heavy() -> None:
    names = [f"{PACKAGE}.cli"]
    for part in ("cli", "experiments"):
        names += [f"{PACKAGE}.{part}.{path.stem}" for path in sorted((ROOT / part).glob("*.py"))]
    names = [name.removesuffix(".__init__") for name in names]
    command = [sys.executable, "-c", IMPORT_EACH, json.dumps(HEAVY), json.dumps(names)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == {}, "import these inside the functions that use them"


def test_what_only_checks_the_statistics_is_installed_for_developers_only() -> None:
    using = [path for path in MODULES if any(name.startswith("statsmodels") for name in imports_of(path))]
    assert using and all("calibration" in path.parts for path in using)
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [name for name in project["dependencies"] if name.startswith("statsmodels")]
    assert [name for name in project["optional-dependencies"]["dev"] if name.startswith("statsmodels")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) != "engine"], ids=name_of)
def test_hooks_are_registered_in_the_engine_only(path: Path) -> None:
    used = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert not {name for name in used if name.startswith(("register_forward", "register_full_backward"))}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not {name.split(".")[0] for name in imports_of(path)} & picklers
    calls = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "pd.read_pickle", "pandas.read_pickle"}


WRITES_TORCH_FILES = "exports/tensors.py"
"""The research plan's maps and vectors are ``.pt`` files of plain tensors: written in one place, read in none."""


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) != WRITES_TORCH_FILES], ids=name_of)
def test_torch_files_are_written_for_the_research_plan_only(path: Path) -> None:
    used = {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    assert "torch.save" not in used


RECORDS_ANY_FAILURE = "experiments/_study.py"
"""A study writes any failure of one model to its log, with the traceback, and goes on with the other models: once."""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_errors_are_not_swallowed_whole(path: Path) -> None:
    handlers = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]
    broad = [h for h in handlers if h.type is None or ast.unparse(h.type) in ("Exception", "BaseException")]
    # Tidying up and raising on is no swallowing.
    swallowed = [h.lineno for h in broad if ast.unparse(h.body[-1]) != "raise"]
    allowed = 1 if name_of(path) == RECORDS_ANY_FAILURE else 0
    assert len(swallowed) <= allowed, f"name the exceptions in lines {swallowed}"
