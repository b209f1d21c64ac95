"""What the command line prints: progress, tables, JSON, durations and sizes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from emotion_circuits.cli import _console


def test_progress_prints_a_line_every_thirty_seconds() -> None:
    stream, now = io.StringIO(), iter([0.0, 10.0, 31.0, 40.0, 90.0])
    with _console.progress("capture", 8, stream=stream, clock=lambda: next(now)) as advance:
        for layer in range(4):
            advance(2, note=f"layer {layer}")
    assert stream.getvalue().splitlines() == [
        "capture: 4 of 8 (50%), about 31 s left – layer 1",
        "capture: 8 of 8 (100%), about 0 s left – layer 3",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_shows_texts_as_they_are() -> None:
    stream = Terminal()
    with _console.progress("read [bold]x[/bold]", 2, stream=stream) as advance:
        advance(1, note="[red]note")
        advance(1, note="[/red]")
    assert "read [bold]x[/bold]" in stream.getvalue() and "2/2" in stream.getvalue()


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with _console.progress("x", 1, quiet=True) as advance:
        advance()
    _console.say("remark", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_table_shows_untrusted_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"t": "[red]</script>:smile:", "v": 0.123456, "n": None}, {"t": "b", "v": float("nan"), "n": True}]
    _console.print_table(rows, {"t": "text", "v": "value", "n": "flag"}, title="[i]T")
    text = capsys.readouterr().out
    assert "[red]</script>:smile:" in text and "[i]T" in text and "0.1235" in text
    assert text.count("–") == 2 and "yes" in text


def test_long_tables_fold_at_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    _console.print_table([{"a": "word " * 60, "b": "x" * 100}], {"a": "a", "b": "b"})
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and text.count("x") == 100


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    _console.print_json({"v": float("nan"), "p": Path("a/b"), "t": "grüße"})
    assert json.loads(capsys.readouterr().out) == {"v": None, "p": "a/b", "t": "grüße"}


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.7, "1 min 0 s"), (7500, "2 h 5 min")])
def test_durations(seconds: float, text: str) -> None:
    assert _console.duration_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1_400_000, "1.4 MB"), (3e12, "3.0 TB")])
def test_sizes(size: int, text: str) -> None:
    assert _console.size_text(size) == text
