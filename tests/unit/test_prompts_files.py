"""Files as users have them: what is read, what is filled in, and what every malformed file says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.prompts import build_profile, import_rows, list_sets, load_prompts
from emotion_circuits.prompts.schema import end_mark, parse_line, to_line
from emotion_circuits.types import Prompt


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(folder))
    return folder


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD = '{"text": "Thanks, Dave.", "emotion": "gratitude"}\n'

BAD_JSONL: list[tuple[str | bytes, str]] = [
    ("", "the file is empty"),
    (" \n\n", "the file is empty"),
    (GOOD + "\n" + '{"text": "broken', ":3: not valid JSON"),
    (GOOD + GOOD.replace("Thanks", "Thx") + "[1, 2]\n", ":3: expected a JSON object, found list"),
    (GOOD + '{"emotion": "anger"}\n', ":2: field text: is missing"),
    (GOOD + '{"text": "No label."}\n', ":2: field emotion: is missing"),
    ('{"text": 7, "emotion": "anger"}\n', ":1: field text: must be a string, found int"),
    ('{"text": " ", "emotion": "anger"}\n', ":1: field text: the text is empty"),
    ('{"text": "A\\u0000B", "emotion": "anger"}\n', ":1: field text: the text holds the unprintable character U+0000"),
    (
        '{"text": "A \\ud800 B", "emotion": "anger"}\n',
        ":1: field text: the text holds half of a surrogate pair",
    ),
    ('{"text": "Hi.", "emotion": "../anger"}\n', ":1: field emotion: '../anger' is not a lower-case name"),
    ('{"text": "Hi.", "emotion": "anger", "split": "train"}\n', ":1: field split: 'train' is not one of"),
    ('{"text": "Hi.", "emotion": "anger", "stratum": "loud"}\n', ":1: field stratum: 'loud' is not one of"),
    ('{"text": "Hi.", "emotion": "anger", "spans": [[0, 99]]}\n', ":1: field spans: [0, 99] is not inside"),
    ('{"text": "Hi.", "emotion": "anger", "spans": [[2, 2]]}\n', ":1: field spans: [2, 2] is not inside"),
    ('{"text": "Hi.", "emotion": "anger", "spans": "0-2"}\n', ":1: field spans: must be a list, found str"),
    ('{"text": "Hi.", "emotion": "anger", "spans": [[0, "2"]]}\n', ":1: field spans: must be a int, found str"),
    ('{"text": "Hi.", "emotion": "anger", "scenario": 5}\n', ":1: field scenario: must be a string, found int"),
    (GOOD.replace("}", ', "id": "a"}') * 2, ":2: field id: 'a' is already the id of line 1"),
    (GOOD + b'{"text": "Caf\xe9.", "emotion": "anger"}\n'.decode("latin-1"), ""),
    ((GOOD * 2).encode() + b'{"text": "Caf\xe9.", "emotion": "anger"}\n', ":3: field text: byte 0xe9 is not UTF-8"),
    (GOOD.encode() + b"\x00\x00\n", ":2: field text: the file holds a NUL byte"),
    (GOOD.encode("utf-16"), "is not UTF-8 (it is UTF-16)"),
    ("[" * 100_000, ":1: not valid JSON"),
]


@pytest.mark.parametrize(("content", "message"), BAD_JSONL)
def test_a_malformed_prompt_file_names_file_line_and_field(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = written(tmp_path, "mine.jsonl", content)
    if not message:  # the same letter as UTF-8 is fine
        assert load_prompts(path)[1].text == "Café."
        return
    with pytest.raises(UsageError) as failure:
        load_prompts(path)
    assert message in failure.value.what
    assert str(path) in failure.value.what
    assert failure.value.fix


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('"end": "!"', ":1: field end: '!' is written here but the text ends with '.'"),
        ('"schema": 2', ":1: field schema: 2 is not one of 1"),
        ('"emotoin": "anger"', ":1: field emotoin: is not a field of a prompt; known: schema, id, text"),
    ],
)
def test_a_set_is_strict_about_its_schema(tmp_path: Path, record: str, message: str) -> None:
    path = written(tmp_path, "mine.jsonl", GOOD.replace("}", f", {record}}}"))
    with pytest.raises(UsageError) as failure:
        load_prompts(path)
    assert message in failure.value.what


def test_several_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"and 2 more"):
        load_prompts(written(tmp_path, "mine.jsonl", '{"text": 1}\n{"emotion": "anger", "text": ""}\n'))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "emotion,comment\nanger,Hi.\n", "a.csv:1: field text: the header has no such column"),
        ("a.csv", "text,comment\nHi.,x\n", "a.csv:1: field emotion: the header has no such column"),
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.csv", "text,emotion\nHi.,anger\n,anger\n", "a.csv:3: field text: is missing"),
        ("a.csv", "text,emotion\nHi, you.,anger\n", "a.csv:2: field text: the line has more cells"),
        ("a.csv", 'text,emotion\n"Hi.,anger\n', "not valid CSV"),
        ("a.csv", "text,emotion,spans\nHi.,anger,first\n", "a.csv:2: field spans: must be a list, found str"),
        ("a.csv", "\r\n\r\ntext,emotion\r\nHi.,anger\r\n,anger\r\n", "a.csv:5: field text: is missing"),
        ("a.csv", b"text,emotion\nCaf\xe9,anger\n", "a.csv:2: field text: byte 0xe9 is not UTF-8"),
        ("a.csv", b"text,emotion\nHi\x00,anger\n", "a.csv:2: field text: the file holds a NUL byte"),
        ("a.json", '{"prompts": ["Hi."\n,', "a.json:2: not valid JSON"),
        ("a.json", "[1]", "a.json:1: field prompts: expected"),
        ("a.json", '{"prompts": "Hi."}', "a.json:1: field prompts: must be a list of texts, found str"),
        ("a.json", '{"emotion": "anger", "prompts": ["Hi.", 5]}', "a.json:2: field text: must be a string, found int"),
        ("a.json", '{"anger": {"Hi": 1}}', "a.json:1: field anger: must be a list of texts"),
        ("a.json", '{"emotion": ["x"], "prompts": ["Hi."]}', "a.json:1: field emotion: must be a string, found list"),
        ("a.json", '{"words": "awe", "prompts": ["Hi."]}', "a.json:1: field words: must be a list of words"),
        ("a.json", '{"anger": []}', "no text was found"),
        ("a.json", "{}", "no text was found"),
        ("a.jsonl", GOOD + "nope", "a.jsonl:2: not valid JSON"),
        ("a.txt", "Hi.", "a.txt: .txt is not a format of prompts"),
    ],
)
def test_a_malformed_import_names_file_line_and_field(
    tmp_path: Path, own_folder: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError) as failure:
        build_profile(written(tmp_path, name, content), "mine")
    assert message in failure.value.what
    assert not own_folder.exists()


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    for call in (load_prompts, import_rows):
        with pytest.raises(UsageError, match=r"absent\.jsonl"):
            call(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="it is a folder"):
        load_prompts(tmp_path)
    with pytest.raises(UsageError, match=r"holds no \.jsonl"):
        import_rows(tmp_path)


def test_unknown_set_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean baseline"):
        load_prompts("baselin")


def test_csv_is_built_from_rather_than_loaded(tmp_path: Path, own_folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_prompts(written(tmp_path, "My texts (1).csv", "text,emotion\nHi.,anger\n"))
    path = str(tmp_path / "My texts (1).csv")
    command = ["emotion-circuits", "prompts", "build", "--from", path, "--name", "my-texts-1"]
    assert shlex.split(caught.value.fix) == command, "it can be typed as it stands"
    assert build_profile(path, command[-1]).prompts


def test_printed_commands_hold_for_paths_with_spaces(tmp_path: Path) -> None:
    for content in ("{", b"\xe9"):
        path = written(tmp_path, "my texts.jsonl", content)
        with pytest.raises(UsageError) as caught:
            load_prompts(path)
        assert str(path) in shlex.split(caught.value.fix.replace("`", ""))


def test_csv_becomes_a_paired_set_with_everything_filled_in(tmp_path: Path) -> None:
    lines = ["Emotion;TEXT;scenario;likes"]
    for i in range(12):
        lines.append(f'Gratitude;"Thanks a lot; you fixed item {i}.";{i};3')
        lines.append(f"neutral;Item {i} is on shelf number {i}.;{i};4")
    built = build_profile(written(tmp_path, "mine.csv", "\ufeff" + "\r\n".join(lines)), "mine")
    assert built.paired and built.notes == ()
    assert load_prompts("mine") == built.prompts
    assert "mine" in list_sets()
    first = built.prompts[0]
    assert (first.id, first.emotion, first.scenario) == ("gratitude-0001", "gratitude", "0")
    assert (first.text, first.spans, first.stratum) == ("Thanks a lot; you fixed item 0.", ((0, 6),), "explicit")
    assert {prompt.split for prompt in built.prompts} == {"fit", "dev", "test"}
    assert all(a.split == b.split for a, b in zip(built.prompts[::2], built.prompts[1::2], strict=True))


def test_one_json_file_per_emotion_becomes_one_unpaired_set(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    folder.mkdir()
    for emotion in ("gratitude", "neutral"):
        texts = [f"Thanks, {i} times." if emotion == "gratitude" else f"Room {i} is upstairs." for i in range(9)]
        (folder / f"{emotion}.json").write_text(json.dumps({"prompts": texts}))
    built = build_profile(folder, "plan-set")
    assert [p.emotion for p in built.prompts] == ["gratitude"] * 9 + ["neutral"] * 9
    assert not built.paired
    assert any("unpaired" in note for note in built.notes)
    assert {p.split for p in built.prompts} == {"fit", "dev", "test"}


def test_one_json_file_with_a_list_per_emotion(tmp_path: Path) -> None:
    content = {"anger": ["I'm furious.", {"text": "It broke.", "split": "test"}], "neutral": ["It is blue."]}
    rows = import_rows(written(tmp_path, "all.json", json.dumps(content)))
    assert [(r.prompt.emotion, r.prompt.stratum) for r in rows] == [
        ("anger", "explicit"), ("anger", "implicit"), ("neutral", "none"),
    ]  # fmt: skip
    assert rows[1].prompt.split == "test"


def test_a_new_emotion_is_one_file_with_its_words(tmp_path: Path) -> None:
    content = {"emotion": "awe", "words": ["awe", "awed"], "prompts": ["We stood in awe of it.", "It filled the sky."]}
    first, second = (row.prompt for row in import_rows(written(tmp_path, "x.json", json.dumps(content))))
    assert (first.emotion, first.spans, first.stratum) == ("awe", ((12, 15),), "explicit")
    assert (second.spans, second.stratum) == ((), "implicit")


def test_a_text_with_only_another_emotions_word_is_neither_explicit_nor_implicit(tmp_path: Path) -> None:
    content = {"anger": ["I am afraid of what I will do.", "Out of my house."], "neutral": ["It is blue."]}
    built = build_profile(written(tmp_path, "all.json", json.dumps(content)), "mine")
    worded, wordless, _ = built.prompts
    assert (worded.spans, worded.stratum) == ((), "none")
    assert (wordless.spans, wordless.stratum) == ((), "implicit")
    assert any(note.startswith("1 of the texts (the first: anger-0001)") for note in built.notes)


def test_windows_line_ends_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    lines = ["text,emotion", "I hate it.,anger", "The bus is late.,neutral"]
    plain = [row.prompt for row in import_rows(written(tmp_path, "a.csv", "\n".join(lines)))]
    windows = "\ufeff\r\n\r\n" + "\r\n\r\n".join(lines) + "\r\n"
    rows = import_rows(written(tmp_path, "b.csv", windows))
    assert [row.prompt for row in rows] == plain and [row.line for row in rows] == [5, 7]
    jsonl = "\ufeff" + GOOD.replace("\n", "\r\n") + "\r\n  \r\n"
    assert load_prompts(written(tmp_path, "a.jsonl", jsonl)) == load_prompts(written(tmp_path, "b.jsonl", GOOD))


def test_an_id_that_occurs_twice_is_refused_and_no_text_is_lost(tmp_path: Path, own_folder: Path) -> None:
    rows = [
        {"id": "x", "text": f"I hate the {thing}.", "emotion": "anger", "scenario": thing} for thing in ("bus", "rain")
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(UsageError, match=r"a\.jsonl:2: field id: 'x' is already the id of line 1"):
        build_profile(written(tmp_path, "a.jsonl", content), "mine")
    assert not own_folder.exists()
    again = [{**row, "id": f"x{i}"} for i, row in enumerate([rows[0], rows[0]])]
    built = build_profile(written(tmp_path, "b.jsonl", "".join(json.dumps(row) + "\n" for row in again)), "mine")
    assert len(built.prompts) == 2, "copies inside a scenario are the user's own doing: `validate` names them"


def test_what_the_user_wrote_is_kept(tmp_path: Path) -> None:
    line = {"text": "Thanks, Dave.", "emotion": "gratitude", "id": "a", "split": "dev", "spans": [[8, 12]], "likes": 3}
    (row,) = import_rows(written(tmp_path, "a.jsonl", json.dumps(line)))
    assert (row.prompt.id, row.prompt.split, row.prompt.spans) == ("a", "dev", ((8, 12),))


def test_a_new_text_joins_the_split_that_its_scenario_already_has(tmp_path: Path) -> None:
    text = "text,emotion,scenario,split\nThanks.,gratitude,k,test\nIt is blue.,neutral,k,\n"
    assert [row.prompt.split for row in import_rows(written(tmp_path, "a.csv", text))] == ["test", "test"]


@pytest.mark.parametrize("name", ["baseline", "../x", "", "Mine", "a b", "x" * 65])
def test_a_set_needs_a_usable_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        build_profile(written(tmp_path, "a.jsonl", GOOD), name)


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(written(tmp_path, "file", "in the way")))
    with pytest.raises(StoreError, match="EMOTION_CIRCUITS_DATA"):
        build_profile(written(tmp_path, "a.jsonl", GOOD), "mine")


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Hi.", "."),
        ('He said "Hi!"', "!"),
        ("So?)", "?"),
        ("Well…", "…"),
        ("No end", ""),
        ("It's 3.5 m", ""),
        ("Hm. ", "."),
    ],
)
def test_end_mark(text: str, mark: str) -> None:
    assert end_mark(text) == mark


printable = st.characters(blacklist_categories=("Cs", "Cc"))


@given(data=st.data(), text=st.text(printable, min_size=1, max_size=40).filter(str.strip))
def test_a_prompt_survives_its_line(data: st.DataObject, text: str) -> None:
    starts = data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3, unique=True))
    prompt = Prompt(
        "id", text, "joy", "k", "explicit", "fit", tuple(sorted((s, s + 1) for s in starts)), "home", "me", "en"
    )
    assert "\n" not in to_line(prompt)
    assert parse_line(json.loads(to_line(prompt)), "f", 1) == prompt


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_our_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for suffix in ("jsonl", "json", "csv"):
        path = folder / f"x.{suffix}"
        path.write_bytes(content)
        try:
            import_rows(path)
        except EmotionCircuitsError as error:
            assert "x." in str(error) or "no text was found" in str(error)
