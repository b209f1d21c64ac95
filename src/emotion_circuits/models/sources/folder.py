"""Local folders: checked before anything is loaded, so that a damaged file is named instead of failing deep inside.

Weights are read from safetensors only; a pickle can run code when it is opened, so it is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from emotion_circuits.errors import ModelError
from emotion_circuits.models.cache import read_source
from emotion_circuits.models.registry import find_entry, model_slug
from emotion_circuits.models.sources.errors import DamagedFileError
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.store.safetensors_header import HeaderError, read_safetensors_header

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def resolve_folder(folder: Path) -> LocalModel:
    """A checked local folder.

    A copy of this package's own cache entry, or a hub snapshot (``models--Org--Name/snapshots/…``), keeps the model's
    name; any other folder is named after itself plus six digits of its path, so that two ``checkpoint-500`` differ.
    """
    folder = folder.expanduser().resolve()
    check_folder(folder)
    if record := read_source(folder):
        name = str(record.get("name", folder.name))
        entry = find_entry(name)
        return LocalModel(
            folder,
            name,
            f"folder {folder} ({record.get('source')})",
            revision=record.get("revision"),
            prefix_token=entry.prefix_token if entry else None,
            dequantised=bool(record.get("dequantised")),
        )
    if match := re.search(r"models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})$", str(folder)):
        repository = match[1].replace("--", "/")
        entry = find_entry(repository)
        prefix = entry.prefix_token if entry else None
        return LocalModel(folder, model_slug(repository), f"folder {folder}", match[2], prefix)
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:6]
    return LocalModel(folder, f"{model_slug(folder.name)}-{digest}", f"folder {folder}")


def check_folder(folder: Path) -> None:
    """Check config, tokenizer and every weight file; raises :class:`ModelError` that names what is missing or cut."""
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no model folder", "name the folder that has it")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(config, f"is not valid JSON: {error}") from error
    for weights in weight_files(folder):
        check_safetensors(weights)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} holds no tokenizer ({', '.join(_TOKENIZER_FILES[:4])}, …)",
            "save it there: AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(FOLDER)",
        )


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's size with what its header announces."""
    try:
        with path.open("rb") as file:
            header = read_safetensors_header(file)
    except HeaderError as error:
        raise DamagedFileError(path, str(error)) from error
    if header.size != header.announced:
        state = "truncated" if header.size < header.announced else "damaged"
        raise DamagedFileError(
            path, f"is {state}: {header.size:,} bytes, but its header announces {header.announced:,} bytes"
        )


def pickle_error(place: str, files: list[str]) -> ModelError:
    """The refusal of weights that exist as pickle only, with the way out."""
    shown = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
    return ModelError(
        f"{place} has its weights as pickle only ({shown}), which can run code when opened, so it is not read",
        "convert it once where you trust the file: AutoModelForCausalLM.from_pretrained(ID).save_pretrained(FOLDER), "
        "the same for AutoTokenizer, then name FOLDER; a hub revision with safetensors may exist "
        "(--revision refs/pr/N), or ask for one at https://huggingface.co/spaces/safetensors/convert",
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that loading a folder reads, by what Transformers looks for; raises :class:`ModelError` without any.

    Other safetensors files beside them are second copies (``consolidated.safetensors``) or something else (an adapter).
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / WEIGHTS_FILE).is_file():
            return [folder / WEIGHTS_FILE]
        weights = sorted(folder.glob("*.safetensors"))
        if weights:
            return weights
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise pickle_error(str(folder), pickles)
        raise ModelError(f"{folder} holds no weights (*.safetensors)", "name a complete model folder")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(index, "is damaged") from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files that {INDEX_FILE} names: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}",
            "copy or download the missing files",
        )
    return [folder / shard for shard in shards]
