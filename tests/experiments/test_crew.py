"""Members of a crew on a network file system, played by one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.experiments._crew import Block, Crew, plan_blocks, share
from emotion_circuits.store import Claims


def test_a_member_that_waited_finds_what_another_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client remembers that a name was not there until it opens the folder: the part is not computed again."""
    step = tmp_path / "step"
    parts = step / "parts"
    (block,) = plan_blocks(["a", "b"], [[0, 1]], 2)
    claim = Claims(step / "claims").take(block.name)
    assert claim is not None
    absent: set[Path] = set()
    scandir = os.scandir

    def opened(folder: Any) -> Any:
        absent.difference_update([path for path in absent if path.parent == Path(folder)])
        return scandir(folder)

    def there(path: Path) -> bool:
        if path not in absent and path.exists():
            return True
        absent.add(path)
        return False

    def other_member(seconds: float) -> None:
        parts.mkdir()
        (parts / block.name).touch()
        claim.release()

    monkeypatch.setattr(os, "scandir", opened)
    done: list[int] = []
    share(
        Crew(pause=other_member), step, [block], lambda b: there(parts) and there(parts / b.name),
        lambda b: pytest.fail("computed a second time"), lambda: False, done.append,
    )  # fmt: skip
    assert done == [2] and not list((step / "claims").iterdir())


def test_a_block_that_its_holder_left_is_computed(tmp_path: Path) -> None:
    (block,) = plan_blocks(["a"], [[0]], 1)
    claim = Claims(tmp_path / "claims").take(block.name)
    assert claim is not None
    computed: list[Block] = []
    share(
        Crew(pause=lambda _: claim.release()), tmp_path, [block], lambda b: b in computed, computed.append,
        lambda: False,
    )  # fmt: skip
    assert computed == [block]
