"""``emotion-circuits cache``: what the converted weights take on disk, and removing them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_table, print_text, size_text
from emotion_circuits.cli._options import CACHE_OPTIONS, CacheOptions
from emotion_circuits.errors import UsageError

app = App(name="cache", help="Show and clean what was downloaded and converted.")

Options = Annotated[CacheOptions, Parameter(name="*")]


@app.command(name="list")
def list_(*, options: Options = CACHE_OPTIONS) -> int:
    """List the converted models with their sizes; hub downloads stay in the hub library's own cache."""
    from emotion_circuits.models.cache import list_entries, models_folder
    from emotion_circuits.models.sources.hub_settings import hub_cache

    folder, entries = models_folder(options.cache), list_entries(options.cache)
    total = sum(entry.bytes for entry in entries)
    if options.json:
        rows = [asdict(entry) for entry in entries]
        print_json({"folder": folder, "hub_folder": hub_cache(), "entries": rows, "bytes": total})
        return 0
    if entries:
        rows = [{**asdict(entry), "size": size_text(entry.bytes)} for entry in entries]
        print_table(rows, {"key": "key", "size": "size", "source": "source"})
    print_text(f"{size_text(total)} in {folder}")
    print_text(f"hub downloads are kept in {hub_cache()} (`hf cache ls` lists them)")
    return 0


@app.command
def clean(
    *names: Annotated[str, Parameter(help="Model names or keys that `cache list` shows.")],
    everything: Annotated[bool, Parameter(name="--all", help="Remove every entry.", show_default=False)] = False,
    options: Options = CACHE_OPTIONS,
) -> int:
    """Remove converted models; they are fetched again when they are needed. Results are never touched."""
    from emotion_circuits.models.cache import clean as remove

    if bool(names) == everything:
        raise UsageError(
            "say what to remove", "emotion-circuits cache clean NAME …, or emotion-circuits cache clean --all"
        )
    removed = remove(None if everything else list(names), options.cache)
    if options.json:
        print_json({"removed": [entry.key for entry in removed], "bytes": sum(entry.bytes for entry in removed)})
        return 0
    for entry in removed:
        print_text(f"removed {entry.key} ({size_text(entry.bytes)})")
    if not removed:
        print_text("nothing to remove")
    return 0
