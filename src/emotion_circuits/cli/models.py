"""``emotion-circuits models``: which models are known by name, fetching them, and what is known about one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_table, print_text, say, size_text
from emotion_circuits.cli._options import CACHE_OPTIONS, CacheOptions
from emotion_circuits.errors import EmotionCircuitsError, ModelError, UsageError, unknown_name

if TYPE_CHECKING:
    from emotion_circuits.models.registry import RegistryEntry
    from emotion_circuits.models.sources import LocalModel

app = App(name="models", help="List, fetch and show models.")

Options = Annotated[CacheOptions, Parameter(name="*")]


@app.command(name="list")
def list_(*, options: Options = CACHE_OPTIONS) -> int:
    """List the models that are known by name; any other hub id, folder or .gguf file works too."""
    from emotion_circuits.models.registry import load_registry

    rows = [_facts(entry, options.cache) for entry in load_registry().values()]
    if options.json:
        print_json({"models": rows})
        return 0
    headings = {
        "name": "name", "size": "disk", "license": "licence", "from": "sources, in order", "here": "on this machine",
    }  # fmt: skip
    print_table(
        [
            {
                **row,
                "size": size_text(row["disk_bytes"]),
                "license": row["license"] + (" (gated)" if row["gated"] and not row["embedded"] else ""),
                "from": ", ".join(row["sources"]),
                "here": row["folder"] is not None,
            }
            for row in rows
        ],
        headings,
    )
    print_text("wheel: comes with pip, needs no hub; gated: accept the licence and set HF_TOKEN")
    return 0


@app.command
def show(
    name: Annotated[str, Parameter(help="Alias or hub id of a model that `models list` shows.")],
    *,
    options: Options = CACHE_OPTIONS,
) -> int:
    """Show what is known about one model, with depth and width where it is on this machine."""
    from emotion_circuits.models.registry import find_entry, load_registry

    entry = find_entry(name)
    if entry is None:
        raise unknown_name("model", name, list(load_registry()))
    facts = _facts(entry, options.cache)
    facts |= _dimensions(facts["folder"])
    if options.json:
        print_json(facts)
        return 0
    width = max(map(len, facts))
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if isinstance(shown, bool):
            shown = "yes" if shown else "no"
        elif isinstance(shown, int):
            shown = size_text(shown) if key == "disk_bytes" else f"{shown:,}"
        print_text(f"{key.replace('_', ' '):<{width}}  {shown or '–'}")
    return 0


@app.command
def fetch(
    *names: Annotated[str, Parameter(help="Aliases, hub ids or .gguf files. Naming a model accepts its licence.")],
    revision: Annotated[str | None, Parameter(help="Branch, tag or commit of a hub repository.")] = None,
    options: Options = CACHE_OPTIONS,
) -> int:
    """Fetch models now, so that later commands need no network; licence terms are shown once, when fetched."""
    from emotion_circuits.models.sources import resolve_source

    if not names:
        raise UsageError("no model is named", "emotion-circuits models fetch smollm2-135m")
    fetched: list[dict[str, Any]] = []
    failures: list[EmotionCircuitsError] = []
    for name in names:
        say(f"{name}: looking for it, fetching what is not here …", quiet=options.quiet)
        try:
            local = resolve_source(name, cache=options.cache, offline=options.offline, revision=revision)
        except EmotionCircuitsError as error:
            failures.append(error)
            continue
        fetched.append(_fetched(local))
        for notice in local.notices:
            say(f"{local.name}: {notice}")  # terms are shown with --quiet too
        if not options.json:
            print_text(f"{local.name}: {local.source}, {size_text(fetched[-1]['bytes'])}, in {local.folder}")
    if options.json:
        print_json({"models": fetched})
    if failures:
        raise _combined(failures, partly=bool(fetched))
    return 0


def _combined(failures: list[EmotionCircuitsError], *, partly: bool) -> EmotionCircuitsError:
    """The one failure itself, or all of them in one error; exit code 3 when other models were fetched."""
    error = failures[0] if len(failures) == 1 else ModelError("\n".join(map(str, failures)))
    if partly:
        error.exit_code = 3
    return error


def _fetched(local: LocalModel) -> dict[str, Any]:
    from emotion_circuits.models.cache import folder_bytes

    return {
        "name": local.name,
        "folder": local.folder,
        "source": local.source,
        "revision": local.revision,
        "prefix_token": local.prefix_token,
        "dequantised": local.dequantised,
        "bytes": folder_bytes(local.folder),
        "notices": local.notices,
    }


def _facts(entry: RegistryEntry, cache: Path | None) -> dict[str, Any]:
    wheel = entry.wheel
    return {
        "name": entry.name,
        "role": entry.role,
        "family": entry.family,
        "hub": entry.hub,
        "sources": entry.sources,
        "packages": [f"{part.package}=={wheel.version}" for part in wheel.parts] if wheel else [],
        "license": entry.license,
        "gated": entry.gated,
        "embedded": entry.embedded,
        "prefix_token": entry.prefix_token,
        "parameters": entry.parameters,
        "disk_bytes": entry.disk_bytes,
        "folder": _local_folder(entry, cache),
    }


def _local_folder(entry: RegistryEntry, cache: Path | None) -> Path | None:
    """Where the model lies on this machine, asking no network."""
    from emotion_circuits.models.sources import resolve_source

    try:
        return resolve_source(entry.name, cache=cache, offline=True).folder
    except EmotionCircuitsError:
        return None


def _dimensions(folder: Path | None) -> dict[str, Any]:
    """Depth, width and heads from the model's own config, under whatever name its family gives them."""
    if folder is None:
        return {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    names = {
        "layers": ("num_hidden_layers", "n_layer", "num_layers"),
        "width": ("hidden_size", "n_embd"),
        "heads": ("num_attention_heads", "n_head", "num_heads"),
    }
    return {fact: next((config[key] for key in keys if key in config), None) for fact, keys in names.items()}
