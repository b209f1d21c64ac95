"""Run folders: what is written when, what a second start finds, and what a reader is told."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import ModelError, StoreError, UsageError
from emotion_circuits.store import Run, Store, TensorFileWriter, model_folder, slug
from emotion_circuits.store.logs import logging_to
from emotion_circuits.types import OBSERVATION_COLUMNS, Observation

ROW = Observation(
    "directions", "m", "anger", 3, "last", 0.5, "baseline", "p1", "s1", "test", 0, "lexicon", 1.25
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def a_run(store: Store, **inputs: Any) -> Run:
    return store.run("smoke", "smollm2-135m", "directions", {"layers": [1, 2], **inputs}, {"rows": 32})


def finished(store: Store, **inputs: Any) -> Run:
    run = a_run(store, **inputs)
    with run.open():
        run.finish({"auroc": 0.9})
    return run


def test_folder_follows_profile_model_experiment_key(store: Store) -> None:
    run = a_run(store)
    assert run.folder == store.root / "smoke" / "smollm2-135m" / "directions" / run.key
    assert (run.profile, run.model, run.experiment, len(run.key)) == ("smoke", "smollm2-135m", "directions", 12)
    assert not store.root.exists(), "asking for a run must not write"


def test_pairs_and_hub_names_become_plain_folder_names() -> None:
    assert model_folder(("meta-llama/Llama-3--8B", "gpt2")) == "meta-llama-Llama-3-8B--gpt2"
    assert slug("/somewhere/models/my model/") == "my-model"
    with pytest.raises(UsageError, match="cannot name"):
        slug("///")


def test_recorded_values_do_not_change_the_key(store: Store) -> None:
    other = store.run("smoke", "smollm2-135m", "directions", {"layers": [1, 2]}, {"rows": 1, "device": "cuda"})
    assert other.key == a_run(store).key != a_run(store, seed=1).key


def test_life_of_a_run(store: Store) -> None:
    run = a_run(store)
    assert run.status == "partial" and not run.done
    with run.open():
        assert run.status == "running"
        run.write_observations([ROW, replace(ROW, layer=None, position=None, strength=None, split=None)])
        run.append_jsonl("generations.jsonl", [{"text": "thanks"}])
        assert not run.done
        run.finish({"auroc": float("nan")})
    assert run.done and run.status == "done"
    assert run.read_summary() == {"auroc": None}
    assert run.read_jsonl("generations.jsonl") == [{"text": "thanks"}]
    assert (run.folder.parent / "latest").read_text() == run.key + "\n"
    assert json.loads((run.folder / "done.json").read_text())["files"]["observations.parquet"] > 0


def test_spec_says_what_the_run_was_computed_with(store: Store) -> None:
    spec = finished(store, seed=7).read_json("spec.json")
    assert spec["inputs"] == {"layers": [1, 2], "seed": 7}
    assert spec["recorded"] == {"rows": 32}
    assert spec["schema"] == 1 and spec["experiment"] == "directions"
    assert {"python", "numpy", "torch"} <= set(spec["versions"])
    assert spec["machine"]["cpus"] >= 1 and "git" in spec


def test_a_resumed_run_keeps_its_first_start_and_lists_the_later_ones(store: Store) -> None:
    with a_run(store).open():
        pass
    with replace(a_run(store), recorded={"rows": 8}).open():
        pass
    spec = a_run(store).read_json("spec.json")
    assert spec["recorded"] == {"rows": 32}
    assert [attempt["recorded"] for attempt in spec["resumed"]] == [{"rows": 8}]


def test_everybody_who_takes_part_in_a_run_is_in_its_spec(store: Store) -> None:
    with a_run(store).open_together(), replace(a_run(store), recorded={"rows": 8}).open_together():
        pass
    spec = a_run(store).read_json("spec.json")
    assert spec["recorded"] == {"rows": 32} and spec["machine"]["host"]
    assert [(worker["recorded"], worker["machine"]) for worker in spec["resumed"]] == [({"rows": 8}, spec["machine"])]
    spec = finished(store).read_json("spec.json")
    with a_run(store).open_together():
        pass
    assert a_run(store).read_json("spec.json") == spec, "it was done"


@pytest.mark.parametrize("write", ["lock", "write_json", "append_jsonl", "tensors"])
def test_a_shared_folder_that_has_gone_is_not_made_anew(tmp_path: Path, write: str) -> None:
    share, away = tmp_path / "share", tmp_path / "away"
    marker = share / "manifest.json"
    share.mkdir()
    marker.touch()
    run = a_run(Store(share, marker))
    with run.open():
        pass
    share.rename(away)
    with pytest.raises(StoreError, match="has gone"):
        if write == "lock":
            with run.lock():
                pass
        elif write == "write_json":
            run.write_json("a.json", {})
        elif write == "append_jsonl":
            run.append_jsonl("a.jsonl", [{}])
        else:
            TensorFileWriter(run.path("a.safetensors"), {"a": ((1,), "float32")})
    assert not share.exists()
    away.rename(share)
    run.write_json("a.json", {})


def test_done_run_is_not_begun_again(store: Store) -> None:
    run = finished(store)
    before = (run.folder / "spec.json").read_bytes()
    with run.open():
        assert run.done
    assert (run.folder / "spec.json").read_bytes() == before


def test_failure_stays_visible_until_the_next_start(store: Store) -> None:
    run = a_run(store)
    with pytest.raises(ModelError), run.open():
        raise ModelError("no such layer 99", "use 0…29")
    assert run.status == "failed"
    failed = run.read_json("failed.json")
    assert (failed["type"], failed["message"], failed["fix"]) == ("ModelError", "no such layer 99", "use 0…29")
    assert "no such layer 99" in (run.folder / "run.log").read_text()
    with run.open():
        assert not (run.folder / "failed.json").exists()
        run.finish({})
    assert run.status == "done"


def test_interruption_leaves_a_partial_run(store: Store) -> None:
    run = a_run(store)
    with pytest.raises(KeyboardInterrupt), run.open():
        raise KeyboardInterrupt
    assert run.status == "partial"


def test_log_holds_what_the_package_says_and_only_inside_the_block(store: Store) -> None:
    run, logger = a_run(store), logging.getLogger("emotion_circuits.anything")
    with run.open():
        logger.info("layer %d", 12)
    logger.warning("afterwards")
    log = (run.folder / "run.log").read_text()
    assert "INFO emotion_circuits.anything: layer 12" in log and "afterwards" not in log
    assert not logging.getLogger("emotion_circuits").handlers


def test_log_holds_warnings_and_what_transformers_says_and_they_are_still_shown(store: Store) -> None:
    run, transformers = a_run(store), logging.getLogger("transformers.modeling_utils")
    with pytest.warns(UserWarning, match="a rare thing"):
        with run.open():
            warnings.warn("a rare thing", UserWarning, stacklevel=1)
            transformers.warning("weights were tied")
        warnings.warn("a rare thing afterwards", UserWarning, stacklevel=1)
    log = (run.folder / "run.log").read_text()
    assert "WARNING py.warnings: UserWarning: a rare thing (" in log and "test_store_runs.py" in log
    assert "WARNING transformers.modeling_utils: weights were tied" in log and "afterwards" not in log


def test_nested_logs_hold_each_warning_once(tmp_path: Path) -> None:
    before, outer, inner = warnings.showwarning, tmp_path / "outer.log", tmp_path / "inner.log"
    with pytest.warns(UserWarning, match="a rare thing") as shown, logging_to(outer), logging_to(inner):
        warnings.warn("a rare thing", UserWarning, stacklevel=1)
    assert [log.read_text().count("a rare thing") for log in (outer, inner)] == [1, 1] and len(shown) == 1
    assert warnings.showwarning is before


def test_logs_that_are_closed_in_another_order_leave_nothing_behind(tmp_path: Path) -> None:
    """As two threads do."""
    package, logs = logging.getLogger("emotion_circuits"), [tmp_path / "first.log", tmp_path / "second.log"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        before, level = warnings.showwarning, package.level
        first, second = map(logging_to, logs)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        package.info("layer 12")
        warnings.warn("a rare thing", UserWarning, stacklevel=1)
        second.__exit__(None, None, None)
        warnings.warn("afterwards", UserWarning, stacklevel=1)
        assert warnings.showwarning is before and package.level == level
    assert not logs[0].read_text()
    said = logs[1].read_text()
    assert said.count("a rare thing") == said.count("layer 12") == 1 and "afterwards" not in said


def test_latest_is_the_one_that_finished_last(store: Store) -> None:
    assert store.latest("smoke", "smollm2-135m", "directions") is None
    first, second = finished(store, seed=1), finished(store, seed=2)
    with a_run(store, seed=3).open():
        pass  # begun, never finished
    latest = store.latest("smoke", "smollm2-135m", "directions")
    assert latest is not None and latest.key == second.key != first.key
    assert latest.inputs == {"layers": [1, 2], "seed": 2}


def test_find_filters_and_passes_over_other_folders(store: Store) -> None:
    run = finished(store)
    pair = store.run("smoke", ("a", "b"), "align", {})
    with pair.open():
        pass
    (store.root / "smoke" / "plots" / "x" / "y").mkdir(parents=True)
    assert {r.key for r in store.find()} == {run.key, pair.key}
    assert [r.key for r in store.find("smoke", ("a", "b"))] == [pair.key]
    assert store.find("smoke", experiment="directions")[0].read_summary() == {"auroc": 0.9}
    assert store.find("other") == []


@pytest.mark.parametrize(("schema", "advice"), [(0, "--force"), (2, "update")])
def test_another_schema_is_refused_and_force_clears_it(store: Store, schema: int, advice: str) -> None:
    run = finished(store)
    for name in ("spec.json", "done.json"):
        content = json.loads((run.folder / name).read_text())
        (run.folder / name).write_text(json.dumps({**content, "schema": schema}))
    for use in (lambda: run.done, run.read_summary, lambda: store.latest("smoke", "smollm2-135m", "directions")):
        with pytest.raises(StoreError, match=f"results schema {schema}") as caught:
            use()
        assert advice in caught.value.fix
    assert store.find() == [] and store.foreign() == [run.folder]
    with run.lock():
        run.discard()
    assert finished(store).done


def test_what_a_removal_left_goes_with_the_next_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [finished(store), finished(store, seed=1)]
    for again in (Run.begin, Run.discard):
        with monkeypatch.context() as killed:
            killed.setattr(shutil, "rmtree", lambda *_, **__: None)
            for run in runs:
                run.discard()
        parent = runs[0].folder.parent
        assert len(list(parent.glob(".*.discarded"))) == 2
        again(runs[0])
        (left,) = parent.glob(".*.discarded")
        assert left.name.startswith(f".{runs[1].key}."), "another run's are removed with that one"
        again(runs[1])
        assert not list(parent.glob(".*.discarded"))


def test_partial_run_of_another_schema_is_not_resumed(store: Store) -> None:
    run = a_run(store)
    run.folder.mkdir(parents=True)
    (run.folder / "spec.json").write_text('{"schema": 0}')
    with pytest.raises(StoreError, match="results schema 0"), run.open():
        pytest.fail("the folder was opened")


def test_unfinished_run_has_no_summary(store: Store) -> None:
    with pytest.raises(StoreError, match="not finished"):
        a_run(store).read_summary()


def test_observations_come_back_as_they_were(store: Store) -> None:
    run = a_run(store)
    rows = [replace(ROW, sample=i, layer=None if i % 2 else i) for i in range(25)]
    assert run.write_observations(iter(rows)) == 25
    assert [Observation(**row) for row in run.read_observations().to_pylist()] == rows
    table = run.read_observations(["layer", "value"])
    assert table.schema.field("layer").type == "int32" and table.schema.field("value").type == "double"
    frame = run.read_observations().to_pandas()
    assert list(frame.columns) == list(OBSERVATION_COLUMNS) and frame["layer"].isna().sum() == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "high"}, "'value' holds a value that is not double"),
        ({"unit": None}, "observation 1 has no unit"),
        ({"extra": 1}, "unknown columns extra"),
    ],
)
def test_bad_observations_are_refused_and_the_old_table_stays(
    store: Store, change: dict[str, Any], message: str
) -> None:
    run = a_run(store)
    good = {name: getattr(ROW, name) for name in OBSERVATION_COLUMNS}
    run.write_observations([good])
    with pytest.raises(UsageError, match=message):
        run.write_observations([good, good | change])
    assert run.read_observations().num_rows == 1
    assert [p.name for p in run.folder.iterdir()] == ["observations.parquet"]


def test_truncated_observations_are_named(store: Store) -> None:
    run = a_run(store)
    run.write_observations([ROW] * 100)
    path = run.folder / "observations.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="truncated or not a Parquet file"):
        run.read_observations()


def test_file_in_place_of_the_results_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    store = Store(tmp_path / "results")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"), a_run(store).open():
        pytest.fail("the folder was opened")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        store.find()


def test_names_cannot_leave_the_run_folder(store: Store) -> None:
    with pytest.raises(UsageError, match="leads out of the run folder"):
        a_run(store).write_json("../escaped.json", {})


def test_full_disk_while_writing_a_table_keeps_the_finished_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(store)
    with pytest.raises(StoreError, match="the disk is full") as caught, run.open():
        run.write_json("a.json", [1])
        monkeypatch.setattr(os, "fsync", full_disk)
        run.write_observations([ROW])
    monkeypatch.undo()
    assert "what was finished is kept" in caught.value.fix
    assert run.read_json("a.json") == [1]
    assert run.status == "partial", "failed.json could not be written either, and the first error was shown"
    with run.open():
        run.write_observations([ROW])
        run.finish({})
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "a.json", "done.json", "observations.parquet", "run.log", "spec.json", "summary.json",
    ]  # fmt: skip


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
