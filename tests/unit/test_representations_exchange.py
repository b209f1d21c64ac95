"""Exported vectors: read back exactly, readable by the programs they are for, and refused when they are damaged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.directions import DirectionSet
from emotion_circuits.representations.exchange import Card, VectorFile, expressed, read_vectors, write_vectors
from emotion_circuits.representations.expression import steering_condition

LAYERS, D = (0, 1, 2, 3), 5
PROVENANCE = {"model": "tiny", "architecture": "llama", "weights": "ab" * 8, "run": "0123456789ab", "position": "last",
              "prompts": {"baseline": "ff"}}  # fmt: skip


@pytest.fixture
def content() -> VectorFile:
    rng = np.random.default_rng(0)
    vectors = {m: {e: rng.standard_normal((4, D)) / 3 for e in ("joy", "anger")} for m in ("neutral", "centred")}
    directions = DirectionSet(("joy", "anger"), LAYERS, vectors, np.zeros((4, D)), np.ones((4, D)), np.full(4, 7.3))
    return expressed("0.4 joy @ L1 - 0.2 anger @ L3", directions, PROVENANCE)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".json"])
def test_round_trip_is_exact_with_its_card(content: VectorFile, tmp_path: Path, suffix: str) -> None:
    write_vectors(tmp_path / f"v{suffix}", content)
    found = read_vectors(tmp_path / f"v{suffix}")
    assert found.card == content.card
    assert list(found.vectors) == [1, 3]
    for layer, vector in content.vectors.items():
        assert found.vectors[layer].tobytes() == vector.tobytes()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100), min_size=1))
def test_any_finite_numbers_survive_csv_and_numpy(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    given_vector = VectorFile({2: np.array(values)}, Card())
    for name in ("v.csv", "v.npz"):
        write_vectors(folder / name, given_vector)
        assert read_vectors(folder / name).vectors[2].tobytes() == given_vector.vectors[2].tobytes()


def test_gguf_has_the_tensors_and_keys_that_llama_cpp_reads(content: VectorFile, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.gguf", content)
    reader = gguf.GGUFReader(tmp_path / "v.gguf")

    def text(key: str) -> str:
        return bytes(reader.get_field(key).parts[-1]).decode()

    assert text("general.architecture") == "controlvector"
    assert text("controlvector.model_hint") == "llama"
    assert int(reader.get_field("controlvector.layer_count").parts[-1][0]) == 2
    tensors = {t.name: t for t in reader.tensors}
    assert set(tensors) == {"direction.1", "direction.3"}
    for layer, vector in content.vectors.items():
        tensor = tensors[f"direction.{layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and list(tensor.shape) == [D]
        np.testing.assert_array_equal(tensor.data, vector.astype(np.float32))
    (tmp_path / "v.gguf.card.json").unlink()
    assert read_vectors(tmp_path / "v.gguf").card == content.card


def test_llama_cpps_own_arithmetic_gives_every_block_the_vector_of_its_layer(
    content: VectorFile, tmp_path: Path
) -> None:
    """``common_control_vector_load_one`` fills one buffer; ``llama_adapter_cvec::apply`` takes each block's part."""
    write_vectors(tmp_path / "v.gguf", content)
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "v.gguf").tensors}
    buffer = np.zeros(D * max(int(name.partition(".")[2]) for name in tensors), np.float32)
    for name, data in tensors.items():
        kind, _, number = name.partition(".")
        layer = int(number)
        assert kind == "direction" and layer >= 1 and data.dtype == np.float32 and data.shape == (D,)
        buffer[D * (layer - 1) : D * layer] += data
    for block in range(1, len(LAYERS)):
        expected = content.vectors.get(block, np.zeros(D)).astype(np.float32)
        np.testing.assert_array_equal(buffer[D * (block - 1) : D * block], expected)


def test_llama_cpp_has_no_place_for_the_first_block(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="first block"):
        write_vectors(tmp_path / "v.gguf", VectorFile({0: np.ones(3)}, Card()))
    assert list(tmp_path.iterdir()) == []


def test_neuronpedia_fields(content: VectorFile, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.json", content)
    first, second = json.loads((tmp_path / "v.json").read_text())
    assert set(first) == {"modelId", "layerNumber", "hookType", "vector", "vectorDefaultSteerStrength", "vectorLabel"}
    assert (first["modelId"], first["layerNumber"], first["hookType"]) == ("tiny", 1, "hook_resid_post")
    assert second["vectorLabel"] == "0.4 joy @ L1 - 0.2 anger @ L3"
    assert first["vectorDefaultSteerStrength"] == 1 and first["vector"] == content.vectors[1].tolist()


def test_a_neuronpedia_vector_of_a_block_input_belongs_to_the_block_below(tmp_path: Path) -> None:
    one = {"modelId": "m", "layerNumber": 6, "hookType": "hook_resid_pre", "vector": [1, -2.5],
           "vectorDefaultSteerStrength": 10, "vectorLabel": "cats"}  # fmt: skip
    (tmp_path / "v.json").write_text(json.dumps(one))
    found = read_vectors(tmp_path / "v.json")
    assert found.card.expression == "cats"
    assert {layer: v.tolist() for layer, v in found.vectors.items()} == {5: [10.0, -25.0]}


def test_csv_is_a_plain_table(content: VectorFile, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.csv", content)
    with (tmp_path / "v.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == D and list(rows[0]) == ["layer_1", "layer_3"]


def test_the_card_says_what_the_vector_is_and_its_expression_means_the_same(content: VectorFile) -> None:
    card = content.card
    assert card.expression == "0.4 joy @ L1 - 0.2 anger @ L3"
    assert card.norms == {"1": 7.3, "3": 7.3} and card.lengths["1"] == pytest.approx(0.4 * 7.3)
    rng = np.random.default_rng(0)
    vectors = {m: {e: rng.standard_normal((4, D)) / 3 for e in ("joy", "anger")} for m in ("neutral", "centred")}
    directions = DirectionSet(("joy", "anger"), LAYERS, vectors, np.zeros((4, D)), np.ones((4, D)), np.full(4, 7.3))
    for edit in steering_condition(card.expression, directions).interventions:
        assert edit.vector is not None
        np.testing.assert_allclose(edit.strength * edit.vector, content.vectors[edit.site.layer], atol=1e-6)


BAD = {
    "a.gguf": b"no gguf at all",
    "b.json": b"{}",
    "c.json": b'[{"modelId": 3}]',
    "d.npz": b"PK\x03\x04 not really",
    "e.csv": b"layer_1,layer_2\n1.0\n",
    "f.csv": b"layer_1\nabc\n",
    "g.csv": b"",
    "h.csv": b"layer_1\nnan\n",
    "i.txt": b"",
    "j.json": b"[]",
    "k.json": b'{"modelId":"m","layerNumber":1,"hookType":"x","vector":[1],"vectorDefaultSteerStrength":1,'
    b'"vectorLabel":"l"}',
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(UsageError, match=name):
        read_vectors(tmp_path / name)


def test_pickled_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", layer_1=np.array([object()], dtype=object))
    with pytest.raises(UsageError, match="plain arrays"):
        read_vectors(tmp_path / "v.npz")


def test_a_model_gguf_is_no_control_vector(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("direction.1", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="no control vector but 'llama'"):
        read_vectors(tmp_path / "model.gguf")


def test_a_damaged_card_is_refused(content: VectorFile, tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.csv", content)
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "norms": 3}'):
        (tmp_path / "v.csv.card.json").write_text(text)
        with pytest.raises(UsageError, match="card"):
            read_vectors(tmp_path / "v.csv")
