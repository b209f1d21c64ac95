"""The command line as a user meets it: help, options, and every kind of failure as one paragraph and an exit code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from cyclopts import Parameter
from pydantic import BaseModel, Field

from emotion_circuits.cli import _app, main
from emotion_circuits.cli._options import COMPUTE_OPTIONS, ComputeOptions
from emotion_circuits.errors import EmotionCircuitsError, ModelError, StoreError, UsageError, unknown_name
from emotion_circuits.store import Store


@pytest.fixture(autouse=True)
def _excepthook_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


class Params(BaseModel):
    layers: tuple[int, ...] = Field((1,), description="Layers to read.")
    alpha: float = Field(1.0, ge=0, description="Strength.")
    method: Literal["mean", "pca"] = Field("mean", description="How.")


DEFAULTS = Params()
Verb = Callable[..., Any]


@pytest.fixture
def with_verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Verb], None]:
    """Adds a verb ``try`` to the root command."""
    build = _app.build_app

    def add(function: Verb) -> None:
        def built(used: str | None = None) -> Any:
            app = build(used)
            app.command(function, name="try")
            return app

        monkeypatch.setattr(_app, "build_app", built)

    return add


@pytest.fixture
def parsed(with_verb: Callable[[Verb], None]) -> Iterator[dict[str, Any]]:
    """What the verb ``try`` received."""
    received: dict[str, Any] = {}

    def attempt(
        experiment: str,
        *,
        params: Annotated[Params, Parameter(name="*")] = DEFAULTS,
        options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
    ) -> None:
        received.update(experiment=experiment, params=params, options=options)

    with_verb(attempt)
    yield received


# ---------------------------------------------------------------- help


def test_help_lists_the_verbs_and_imports_none_of_them() -> None:
    script = "import sys; from emotion_circuits.cli import main; code = main(['--help']); print(code, *sys.modules)"
    wide = {**os.environ, "COLUMNS": "200"}
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=wide)
    for verb in _app.available_verbs():
        assert _app.VERBS[verb] in " ".join(answer.stdout.split("\n")), verb
    code, *modules = answer.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not {f"emotion_circuits.cli.{verb}" for verb in _app.VERBS} & set(modules)
    assert not {"torch", "numpy", "pandas", "pydantic"} & set(modules)


def test_help_answers_in_three_tenths_of_a_second() -> None:
    def processor_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "emotion_circuits", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(processor_seconds() for _ in range(3)) < 0.3


@pytest.mark.parametrize("verb", _app.available_verbs())
def test_every_verb_that_is_here_shows_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Usage: emotion-circuits {verb}" in capsys.readouterr().out


def test_verb_whose_file_is_missing_does_not_break_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(_app.VERBS, "levitate", "Not there yet.")
    assert main(["ls", "--results", str(tmp_path)]) == 0
    assert main(["--help"]) == 0
    assert "levitate" not in capsys.readouterr().out
    assert main(["levitate"]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


# ---------------------------------------------------------------- options


def test_options_reach_the_verb_typed(parsed: dict[str, Any]) -> None:
    line = "try directions --layers 4 8 12 --alpha 0.5 --device cpu --rows 8 --results out --json --offline --seed 3"
    assert main(line.split()) == 0
    assert parsed["params"] == Params(layers=(4, 8, 12), alpha=0.5)
    options = parsed["options"]
    assert (options.device, options.rows, options.results, options.seed) == ("cpu", 8, Path("out"), 3)
    assert options.json and options.offline and not options.quiet and not options.force
    assert (options.dtype, options.cache) == ("float32", None)


def test_help_describes_every_option(parsed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["try", "--help"])
    text = capsys.readouterr().out
    names = [
        "results",
        "cache",
        "device",
        "dtype",
        "seed",
        "rows",
        "offline",
        "force",
        "quiet",
        "json",
        "layers",
        "alpha",
        "method",
    ]
    for name in names:
        described = [line for line in text.splitlines() if f"--{name} " in line]
        assert described and len(described[0].split(f"--{name} ")[1].strip(" │")) > 8, name
    assert "--no-" not in text and "--empty-" not in text


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("trry x", "no command 'trry'", "--help"),
        ("try", "needs EXPERIMENT", "emotion-circuits try --help"),
        ("try x --alfa 1", "no option --alfa", "did you mean --alpha?"),
        ("try x --alpha", "--alpha needs a value", "--help"),
        ("try x --layers", "--layers needs a value", "--help"),
        ("try x --alpha -1", "--alpha: must be greater than or equal to 0, not '-1'", "--help"),
        ("try x --alpha much", "--alpha: must be a valid number, not 'much'", "--help"),
        ("try x --layers 1 b", "--layers: must be a valid integer, not 'b'", "--help"),
        ("try x --method mode", "--method: must be 'mean' or 'pca', not 'mode'", "--help"),
        ("try x --device tpu", '"tpu" for --device', "--help"),
        ("try x --rows 0", "--rows", "--help"),
        ("try x --seed one", "--seed", "--help"),
        ("try x y", "does not know what to do with 'y'", "--help"),
        ("try x --seed 1 --seed 2", "--seed is given more than once", "once"),
    ],
)
def test_wrong_use_is_one_paragraph_and_code_2(
    parsed: dict[str, Any], capsys: pytest.CaptureFixture[str], line: str, what: str, fix: str
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    said, _, advice = err.partition("\n  → ")
    assert what in said and fix in advice
    assert not out and not parsed and "Traceback" not in err and err.startswith("error: ")
    assert len(err.strip().splitlines()) == 2


# ---------------------------------------------------------------- failures


def raising(error: BaseException) -> Verb:
    def attempt() -> None:
        raise error

    return attempt


class PartlyDoneError(EmotionCircuitsError):
    exit_code = 3


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ModelError("no such folder", "give a folder"), 1, "error: no such folder\n  → give a folder"),
        (StoreError("the disk is full", "free some"), 1, "the disk is full"),
        (UsageError("layer 99 does not exist", "use 0…29"), 2, "layer 99"),
        (PartlyDoneError("2 of 3 models done", "see the log"), 3, "2 of 3 models done"),
        (KeyboardInterrupt(), 130, "stopped; the same command resumes"),
        (MemoryError("Unable to allocate 8 GiB"), 1, "memory ran out (Unable to allocate 8 GiB)\n  → use a smaller"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "memory ran out"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "--rows"),
        (OSError(28, "No space left on device", "/x/y"), 1, "No space left on device (/x/y)"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "Permission denied (/x/y)"),
    ],
)
def test_failures_end_in_a_paragraph_and_their_code(
    with_verb: Callable[[Verb], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    with_verb(raising(error))
    assert main(["try"]) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_refused_parameters_inside_a_verb_are_named(
    with_verb: Callable[[Verb], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_verb(lambda: Params(alpha=-2.0))
    assert main(["try"]) == 2
    assert "--alpha: must be greater than or equal to 0, not '-2.0'" in capsys.readouterr().err


def test_exit_code_is_what_the_verb_returns(with_verb: Callable[[Verb], None]) -> None:
    with_verb(lambda: 3)
    assert main(["try"]) == 3


DEFECT = """
import sys
from emotion_circuits.cli import _app, main
build = _app.build_app
def built(used=None):
    app = build(used)
    app.command(lambda: {}["no such key"], name="try")
    return app
_app.build_app = built
sys.exit(main(["try"]))
"""


def test_defect_names_a_log_file_with_the_traceback(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", DEFECT],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    (log,) = tmp_path.iterdir()
    assert f"the traceback is in {log}" in answer.stderr and "KeyError: 'no such key'" in answer.stderr
    assert "Traceback (most recent call last)" in log.read_text()


@pytest.mark.skipif(os.name != "posix", reason="a pipe without a reader")
def test_reader_that_went_away_is_no_error_message(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "emotion_circuits", "ls", "--results", str(tmp_path)]
    with os.fdopen(writer, "wb") as stdout:
        answer = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert answer.stderr == b"" and answer.returncode == 1


def test_terminal_without_utf8_gets_escapes(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "emotion_circuits", "--help"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert answer.returncode == 0 and b"Usage: emotion-circuits" in answer.stdout and not answer.stderr


# ---------------------------------------------------------------- ls


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    done = store.run("smoke", "smollm2-135m", "directions", {"a": 1})
    with done.open():
        done.write_observations([])
        done.finish({})
    with pytest.raises(ModelError), store.run("smoke", "gpt2", "directions", {}).open():
        raise ModelError("hub unreachable")
    with store.run("smoke", ("a", "b"), "align", {}).open():
        pass
    return store.root


def test_ls_json_has_status_size_and_times(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--results", str(results), "--json"]) == 0
    listed = {row["model"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert {model: row["status"] for model, row in listed.items()} == {
        "smollm2-135m": "done", "gpt2": "failed", "a--b": "partial",
    }  # fmt: skip
    assert listed["gpt2"]["message"] == "hub unreachable"
    assert listed["smollm2-135m"]["finished"] >= listed["smollm2-135m"]["started"]
    assert all(row["bytes"] > 0 and Path(row["folder"]).is_dir() for row in listed.values())


def test_ls_table_fits_and_filters(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--results", str(results)]) == 0
    text = capsys.readouterr().out
    table, _, failures = text.partition("\nfailed: ")
    assert all(len(line) <= 80 for line in table.splitlines())
    assert all(word in table for word in ("smollm2-135m", "done", "failed", "partial")) and "hub" in failures
    assert main(["ls", "--results", str(results), "--model", "a--b"]) == 0
    text = capsys.readouterr().out
    assert "align" in text and "gpt2" not in text


def test_ls_of_a_profile_takes_what_study_takes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "smoke.toml").write_text('[[experiment]]\nname = "directions"\n', encoding="utf-8")
    listed = []
    for typed in ("smoke", path):
        assert main(["ls", "--profile", str(typed), "--results", str(results)]) == 0
        listed.append(capsys.readouterr().out)
    assert listed[0] == listed[1] and "a--b" in listed[0]
    for typed, parts in {
        "smok": ("unknown profile 'smok'; known: ", "did you mean smoke"),
        "quickstart": (f"emotion-circuits study quickstart --results {results}", "there are results of "),
        str(tmp_path / "absent.toml"): ("absent.toml", "known: "),
    }.items():
        for more in ([], ["--watch"]):
            assert main(["ls", "--profile", typed, "--results", str(results), *more]) == 2
            error = capsys.readouterr().err
            assert all(part in error for part in parts), error
    path.write_text("title = 3", encoding="utf-8")
    assert main(["ls", "--profile", str(path), "--results", str(results)]) == 2
    assert "title must be a text" in capsys.readouterr().err
    assert main(["ls", "--profile", "quikstart", "--results", str(tmp_path / "none")]) == 2
    assert "did you mean quickstart" in capsys.readouterr().err
    assert main(["ls", "--profile", "smoke", "--experiment", "sweep", "--results", str(results)]) == 0
    assert "no such runs in" in capsys.readouterr().out


def test_ls_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--results", str(tmp_path / "none")]) == 0
    assert "no runs in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "known", "hint"),
    [
        ("quickstrat", ["contrasts", "quickstart", "smoke"], "did you mean quickstart? "),
        ("jpg", ["pdf", "png", "svg"], ""),
        ("gratitud", ["gratitude", "anger"], "did you mean gratitude? "),
    ],
)
def test_only_the_nearest_name_is_suggested_and_only_where_it_is_near(typed: str, known: list[str], hint: str) -> None:
    assert unknown_name("name", typed, known).fix == f"{hint}choose one of the names above"
