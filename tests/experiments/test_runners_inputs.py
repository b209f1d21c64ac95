"""With a runner, as without one: no answer of yesterday for changed texts, files, weights or experiments."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits import models
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments import Workbench, load_profile, run_experiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.models import load_lm
from emotion_circuits.runners import Manifest, backend, collect, inputs, plan_study, read_manifest, run_shard
from emotion_circuits.store import Store

LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}


def write_set(path: Path, ending: str = ".") -> Path:
    """A prompt set of twenty scenarios, gratitude and neutral."""
    texts = {"gratitude": "Thank you for the thing", "neutral": "This is the thing"}
    rows = [
        {"id": f"{label}-{n}", "text": f"{text} {n}{ending}", "emotion": label, "scenario": f"s{n}", "split": "fit"}
        for n in range(20)
        for label, text in texts.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards run in this process."""

    def run(manifest: Manifest, chosen: Any, tell: Any) -> None:
        for number in backend.unfinished(manifest):
            run_shard(manifest, number)

    monkeypatch.setattr(backend, "run_shards", run)


def ids(tmp_path: Path, model: object, experiment: str, params: Mapping[str, Any]) -> list[str]:
    """The ids of the cells of a study of one experiment."""
    profile = Profile("p", "", "", (), ((experiment, dict(params)),))
    return [cell.id for cell in plan_study(profile, [str(model)], tmp_path, loading=LOADING).cells]


def test_changed_texts_get_an_answer_of_their_own(
    cli: Any, here: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "prompts" / "mine.jsonl"

    def answer(ending: str) -> str:
        write_set(path, ending)
        words = ("--model", model, "--profile", "mine", "--results", tmp_path / "results")
        found = cli("run", "extract", *words, "--shards", 1)
        assert found.code == 0, found.err
        alone = cli("run", "extract", *words)
        assert alone.out == found.out, "that of one process"
        return str(found.out)

    first, changed = answer("."), answer("!")
    assert first != changed
    assert answer(".") == first
    captured = Path(changed.split("results: ")[1].split()[0]) / "texts.json"
    assert json.loads(captured.read_text())["prompts"][0]["text"].endswith("!")


def test_what_makes_a_cell_another_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = tmp_path / "labelled.jsonl"

    def check() -> list[str]:
        return ids(tmp_path, model, "check", {"on": str(labelled)})

    labelled.write_text('{"text": "Thanks.", "emotion": "gratitude"}\n')
    first = check()
    assert check() == first
    labelled.write_text('{"text": "Thanks!", "emotion": "gratitude"}\n')
    assert check() != first
    labelled.write_text('{"text": "Thanks.", "emotion": "gratitude"}\n')
    assert check() == first
    with monkeypatch.context() as patch:
        patch.setattr(Directions, "version", Directions.version + 1)
        assert check() != first, "it builds on directions"
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "_package_data", lambda: "another version of the package")
        assert check() != first
    weights = model / "model.safetensors"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        assert check() != first, "retrained"
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UsageError, match="needs a file of labelled texts"):
        ids(tmp_path, model, "check", {})


def test_a_name_of_the_registry_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does without a runner; and a link to a folder is followed at planning."""
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "step-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "newest").symlink_to("step-1")
    profile = Profile("p", "", "", (), (("doctor", {}),))
    planned = plan_study(profile, ["gpt2", "./gpt2", "./newest"], tmp_path, loading=LOADING).work.sources
    whole = {name: str((tmp_path / name).resolve()) for name in ("gpt2", "step-1")}
    assert planned == {"gpt2": "gpt2", "./gpt2": whole["gpt2"], "./newest": whole["step-1"]}


def test_a_worker_refuses_texts_that_are_not_those_of_the_plan(model: Path, tmp_path: Path) -> None:
    """They were changed while it waited in a queue: its answer would be noted as that of the old ones."""
    path = write_set(tmp_path / "mine.jsonl")
    profile = Profile("p", "", "", (), (("extract", {"sets": [str(path)]}),))
    manifest = plan_study(profile, [str(model)], tmp_path / "results", loading=LOADING).write()
    write_set(path, "!")
    assert run_shard(manifest, 0).exit_code == 1
    (failure,) = collect(manifest).failures
    assert "was planned with other texts" in failure.error.what and "run the same command again" in failure.error.fix
    assert not list((tmp_path / "results").glob("*/*/*/*/spec.json"))
    again = plan_study(profile, [str(model)], tmp_path / "results", loading=LOADING).write()
    assert again.path != manifest.path and run_shard(again, 0).exit_code == 0


def test_a_worker_refuses_a_model_that_is_not_the_one_of_the_plan(model: Path, tmp_path: Path) -> None:
    """Trained on while the worker waited: its answer would be noted as that of the old weights."""
    mine = Path(shutil.copytree(model, tmp_path / "mine"))
    profile = Profile("p", "", "", (), (("extract", {"sets": [str(write_set(tmp_path / "mine.jsonl"))]}),))

    def planned() -> Manifest:
        return plan_study(profile, [str(mine)], tmp_path / "results", loading=LOADING).write()

    manifest = planned()
    (mine / "train.log").touch()
    weights = mine / "model.safetensors"
    held = weights.stat()
    os.utime(weights, ns=(held.st_atime_ns, held.st_mtime_ns + 1))
    assert run_shard(manifest, 0).exit_code == 1
    (failure,) = collect(manifest).failures
    assert f"was planned with other files than are in {mine} now" in failure.error.what
    assert "run the same command again" in failure.error.fix and "cp -p" in failure.error.fix
    assert not list((tmp_path / "results").glob("*/*/*/*/spec.json"))
    again = planned()
    assert again.path != manifest.path and run_shard(again, 0).exit_code == 0
    os.utime(weights, ns=(held.st_atime_ns, held.st_mtime_ns))
    assert run_shard(manifest, 0).exit_code == 0, "the planned one is back"


def test_a_model_that_is_written_anew_while_it_is_loaded_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(shutil.copytree(model, tmp_path / "mine"))
    profile = Profile("p", "", "", (), (("extract", {"sets": [str(write_set(tmp_path / "mine.jsonl"))]}),))
    manifest = plan_study(profile, [str(mine)], tmp_path / "results", loading=LOADING).write()

    def slow(source: str, **options: Any) -> Any:
        os.utime(mine / "model.safetensors", ns=(1, 1))
        return load_lm(source, device="cpu")

    monkeypatch.setattr(models, "load_lm", slow)
    assert run_shard(manifest, 0).exit_code == 1
    assert "was planned with other files" in collect(manifest).failures[0].error.what


def test_relative_files_are_found_by_workers_that_are_started_elsewhere(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run is the one that a process without a runner makes."""
    home, elsewhere, results = tmp_path / "home", tmp_path / "elsewhere", tmp_path / "results"
    write_set(home / "mine.jsonl")
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    profile = load_profile("mine.jsonl")
    params = profile.params("extract")
    profile = Profile(profile.name, "", "", (), (("extract", {}),), prompts=profile.prompts)
    manifest = plan_study(profile, [str(model)], results, loading={**LOADING, "cache": "cache"}).write()
    assert manifest.work.folder == str(home) and manifest.work.loading["cache"] == str(home / "cache")
    monkeypatch.chdir(elsewhere)
    assert run_shard(read_manifest(manifest.path), 0).exit_code == 0, collect(manifest).failures
    assert Path.cwd() == elsewhere
    monkeypatch.chdir(home)
    lm = load_lm(str(model), device="cpu")
    alone = run_experiment("extract", params, Workbench(Store(tmp_path / "alone"), profile.name, lambda: lm))
    assert [run.key for run in collect(manifest).runs] == [alone.key]
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UsageError, match="which this machine does not have"):
        run_shard(manifest, 0)
    assert not load_profile("quickstart").prompts
    packaged = plan_study(load_profile("quickstart"), [str(model)], results, loading=LOADING)
    assert packaged.work.folder == "", "the same plan wherever it is asked for"
