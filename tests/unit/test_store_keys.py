"""Keys: equal inputs share a key, any changed leaf has another one, and nothing ambiguous gets a key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import canonical, content_key, fingerprint_file, fingerprint_texts, plain
from emotion_circuits.types import Positions

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
inputs = st.dictionaries(st.text(max_size=5), trees, min_size=1, max_size=5)


def reordered(value: Any) -> Any:
    """The same content with every mapping in reverse order and every list as a tuple."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(reordered(item) for item in value)
    return value


def leaf_places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key in value for found in leaf_places(value[key], (*place, key))]
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in leaf_places(item, (*place, i))]
    return [place]


def replaced(value: Any, place: tuple[Any, ...], leaf: Any) -> Any:
    if not place:
        return leaf
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], leaf)
    return copy


@given(inputs)
def test_order_of_mappings_and_kind_of_sequence_do_not_matter(tree: dict[str, Any]) -> None:
    assert content_key(tree) == content_key(reordered(tree))


@given(inputs, leaves, st.data())
def test_any_changed_leaf_gives_another_key(tree: dict[str, Any], leaf: Any, data: st.DataObject) -> None:
    places = leaf_places(tree)
    assume(places)
    place = data.draw(st.sampled_from(places))
    changed = replaced(tree, place, leaf)
    assume(repr(changed) != repr(tree))
    assert content_key(changed) != content_key(tree)


@given(inputs)
def test_the_canonical_form_has_the_same_key(tree: dict[str, Any]) -> None:
    assert content_key(canonical(tree)) == content_key(tree)


def test_key_is_stable_across_versions_of_this_program() -> None:
    # A changed value here makes every result on every disk unreachable.
    assert content_key({"layers": (1, 2), "alpha": 0.5, "name": "dank", "none": None}) == "a8ef46e69754"


class Params(BaseModel):
    alpha: float = 1.0
    folder: Path = Path("a/b")


@dataclass(frozen=True)
class Cell:
    layer: int
    positions: Positions


def test_models_and_dataclasses_equal_the_mapping_of_their_fields() -> None:
    assert content_key({"p": Params()}) == content_key({"p": {"alpha": 1.0, "folder": "a/b"}})
    fields = {"layer": 3, "positions": {"kind": "last", "which": "all", "values": []}}
    assert content_key({"c": Cell(3, Positions("last"))}) == content_key({"c": fields})


def test_numpy_values_are_keyed_by_content() -> None:
    assert content_key({"n": np.int64(3), "f": np.float64(0.5)}) == content_key({"n": 3, "f": 0.5})
    vector = np.arange(4.0)
    assert content_key({"v": vector}) == content_key({"v": vector[::-1][::-1]})
    assert content_key({"v": vector}) != content_key({"v": vector.astype(np.float32)})
    assert content_key({"v": vector}) != content_key({"v": vector.reshape(2, 2)})


@pytest.mark.parametrize("value", [float("nan"), np.float32("nan"), [1.0, float("nan")]])
def test_nan_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(UsageError, match=r"inputs\.alpha.* NaN"):
        content_key({"alpha": value})


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, {1: "number as key"}, lambda: 0, Params])
def test_types_without_a_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"inputs\.thing"):
        content_key({"thing": value})


def test_plain_is_readable_json() -> None:
    value = {"a": np.array([1.0, np.nan]), "s": {"b", "a"}, "inf": float("inf"), 3: Path("x/y")}
    assert plain(value) == {"a": [1.0, None], "s": ["a", "b"], "inf": None, "3": "x/y"}


def test_text_fingerprint_sees_boundaries_and_order() -> None:
    assert fingerprint_texts(["ab", "c"]) != fingerprint_texts(["a", "bc"])
    assert fingerprint_texts(["a", "b"]) != fingerprint_texts(["b", "a"])
    assert fingerprint_texts(iter(["a", "b"])) == fingerprint_texts(["a", "b"])
    with pytest.raises(UsageError, match="several texts"):
        fingerprint_texts("one text")


def test_file_fingerprint_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert fingerprint_file(tmp_path / "f").startswith("ba7816bf8f01cfea")
    with pytest.raises(StoreError, match="cannot read"):
        fingerprint_file(tmp_path / "absent")
