"""Which results a verb reads: the folder that belongs to what was typed as ``--profile``."""

from __future__ import annotations

from pathlib import Path

from emotion_circuits.errors import UsageError, unknown_name


def stored_profile(typed: str, results: Path) -> str:
    """The folder below ``results`` of a profile as ``study`` takes it (name, file, prompt set), or of that very name.

    Raises:
        UsageError: there is none; those that are there are named, or what to type first.
    """
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.report.commands import first_study
    from emotion_circuits.store import Store, slug

    name, refused = typed, None
    try:
        name = load_profile(typed).name
    except UsageError as error:
        if Path(typed).expanduser().is_file():  # a profile that is malformed says what is wrong with it
            raise
        refused = error  # a profile file may be gone while its results are there
    for folder in (slug(name), slug(typed)):
        if (results / folder).is_dir():
            return folder
    there = sorted({run.profile for run in Store(results).find()})
    if refused is not None:
        raise unknown_name("profile", typed, there) if there else refused
    beside = f"; there are results of {', '.join(there)}" if there else ""
    raise UsageError(f"no results of profile {name!r} in {results}{beside}", first_study(typed, results))
