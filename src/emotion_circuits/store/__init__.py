"""Results on disk: keys, run folders, resumable parts and tensor files. Imports no model code."""

from __future__ import annotations

from emotion_circuits.store.claims import Claim, Claims
from emotion_circuits.store.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    replacing,
    write_json,
    write_once,
    write_text,
)
from emotion_circuits.store.keys import canonical, content_key, fingerprint_file, fingerprint_texts, plain
from emotion_circuits.store.locks import exclusive
from emotion_circuits.store.observations import read_observations, write_observations
from emotion_circuits.store.parts import PartSet
from emotion_circuits.store.runs import ARROW, PAIR, SCHEMA_VERSION, Run, Store, model_folder, slug
from emotion_circuits.store.tables import read_tables, write_table
from emotion_circuits.store.tensors import TensorFileWriter, open_tensors, write_tensors

__all__ = [
    "ARROW",
    "PAIR",
    "SCHEMA_VERSION",
    "Claim",
    "Claims",
    "PartSet",
    "Run",
    "Store",
    "TensorFileWriter",
    "append_jsonl",
    "canonical",
    "content_key",
    "exclusive",
    "fingerprint_file",
    "fingerprint_texts",
    "model_folder",
    "open_tensors",
    "plain",
    "read_json",
    "read_jsonl",
    "read_observations",
    "read_tables",
    "replacing",
    "slug",
    "write_json",
    "write_observations",
    "write_once",
    "write_table",
    "write_tensors",
    "write_text",
]
