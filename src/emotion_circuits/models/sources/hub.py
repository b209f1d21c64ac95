"""The Hugging Face hub, or a mirror of it (``HF_ENDPOINT``): safetensors, configuration and tokenizer files only.

Downloads go to the hub library's own cache (``HF_HUB_CACHE``, ``HF_HOME``), shared with every other tool.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from emotion_circuits.errors import EmotionCircuitsError, ModelError
from emotion_circuits.models.cache import require_space
from emotion_circuits.models.registry import RegistryEntry, model_slug
from emotion_circuits.models.sources.errors import DamagedFileError, UnreachableError
from emotion_circuits.models.sources.folder import PICKLE_SUFFIXES, check_folder, pickle_error
from emotion_circuits.models.sources.hub_errors import hub_errors, no_such_name, not_cached
from emotion_circuits.models.sources.hub_settings import hub_cache, hub_endpoint, offline_by_environment
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.store.files import write_text

_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
MODEL_SUFFIXES = (".safetensors", *_TEXT_SUFFIXES)
"""Of the files in a model's folder: weights, configuration, tokenizer."""

_STANDARD_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
ANSWER_SECONDS = 10.0


def resolve_hub(
    repository: str, entry: RegistryEntry | None = None, *, offline: bool = False, revision: str | None = None
) -> LocalModel:
    """Fetch ``repository`` (``org/name``) at ``revision`` (default: its main branch) unless it is in the hub cache.

    Raises :class:`UnreachableError` when the hub does not answer and nothing is cached; :class:`UsageError` for an
    unknown repository or revision; :class:`ModelError` for a gated one, pickle-only or damaged weights.
    """
    offline = offline or offline_by_environment()
    with _quiet_hub():
        if offline:
            folder = _cached_snapshot(repository, revision)
            notices: tuple[str, ...] = ()
        else:
            folder, notices = _fetch(repository, revision)
        if offline:
            check_folder(folder)  # nothing is removed: it could not be fetched again
        else:
            with _damage_removed(repository):
                check_folder(folder)
    return LocalModel(
        folder,
        entry.name if entry else model_slug(repository),
        f"hub {repository}@{folder.name[:12]}",
        revision=folder.name,
        prefix_token=entry.prefix_token if entry else None,
        notices=notices,
    )


def cached_folder(repository: str) -> Path | None:
    """The snapshot of ``repository`` in the hub cache, complete or not, or None; asks nobody."""
    try:
        with _quiet_hub():
            return _cached_snapshot(repository, None)
    except EmotionCircuitsError:
        return None


def newest_commit(repository: str, *, offline: bool = False) -> str:
    """The commit of the main branch that loading ``repository`` would take now; empty where it cannot be known.

    That of the hub, or without an answer that of the cached copy. Fetches nothing and raises nothing: loading does.
    """
    from huggingface_hub import HfApi

    if not (offline or offline_by_environment()):
        with contextlib.suppress(EmotionCircuitsError), _quiet_hub(), hub_errors(repository, None):
            return HfApi(endpoint=hub_endpoint()).model_info(repository, timeout=ANSWER_SECONDS).sha or ""
    folder = cached_folder(repository)
    return "" if folder is None else folder.name


def _fetch(repository: str, revision: str | None) -> tuple[Path, tuple[str, ...]]:
    """The snapshot folder, downloaded where needed, and notices; a hub that is down is no obstacle to a cached one."""
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    try:
        with hub_errors(repository, revision):
            info = HfApi(endpoint=hub_endpoint()).model_info(repository, revision=revision, files_metadata=True)
    except UnreachableError as unreachable:
        try:
            return _cached_snapshot(repository, revision), (
                f"the hub could not be reached; using the copy of {repository} that is on this machine",
            )
        except UnreachableError:
            raise unreachable from None
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    wanted = _wanted_files(list(sizes), repository)
    missing = sum(
        sizes[name] or 0
        for name in wanted
        if not isinstance(try_to_load_from_cache(repository, name, cache_dir=hub_cache(), revision=info.sha), str)
    )
    if missing:
        require_space(hub_cache(), missing, f"downloading {repository}")
    with hub_errors(repository, revision):
        snapshot = snapshot_download(
            repository,
            revision=info.sha,  # the commit that the sizes belong to: a branch may move in between
            cache_dir=hub_cache(),
            endpoint=hub_endpoint(),
            allow_patterns=[re.sub(r"([\[*?])", r"[\1]", name) for name in wanted],
        )
    folder = Path(snapshot)
    _name_commit(folder, revision)
    with _damage_removed(repository):
        for name in wanted:
            _check_size(folder / name, sizes[name])
    return folder, ()


def _name_commit(snapshot: Path, revision: str | None) -> None:
    """Write down which commit a branch or tag meant, as the hub library does when it is asked by that name.

    The cache keeps ``refs/NAME`` (its content: the commit) beside ``snapshots/COMMIT``; offline look-ups need it.
    """
    name = revision or "main"
    reference = snapshot.parent.parent / "refs" / name
    if name == snapshot.name or (reference.is_file() and reference.read_text(encoding="utf-8") == snapshot.name):
        return
    write_text(reference, snapshot.name)


def _check_size(path: Path, announced: int | None) -> None:
    size = path.stat().st_size
    if announced is not None and size != announced:
        raise DamagedFileError(path, f"is truncated: {size:,} bytes, but the hub announced {announced:,} bytes")


def _wanted_files(names: list[str], repository: str) -> list[str]:
    """Weights, configuration and tokenizer at the top of the repository; raises when there are no safetensors.

    Standard names win over others, which are second copies (``consolidated.safetensors``, half-precision variants).
    """
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    if not weights:
        pickles = [name for name in top if name.endswith(PICKLE_SUFFIXES)]
        if pickles:
            raise pickle_error(f"{repository} on the hub", pickles)
        raise ModelError(
            f"{repository} on the hub holds no weights as safetensors", "name a repository that holds model weights"
        )
    standard = [name for name in weights if _STANDARD_WEIGHTS.fullmatch(name)]
    return (standard or weights) + [name for name in top if name.endswith(_TEXT_SUFFIXES)]


def _cached_snapshot(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # The narrowest pattern that says "complete": which other files were taken, the first download decided.
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=hub_cache(),
                local_files_only=True,
                allow_patterns=["config.json"],
            )
        )
    except HFValidationError as error:
        raise no_such_name(repository) from error
    except LocalEntryNotFoundError as error:
        raise not_cached(repository, revision, hub_cache()) from error


@contextlib.contextmanager
def _damage_removed(repository: str) -> Iterator[None]:
    """Remove a file that the block finds damaged, so that the next attempt downloads it again."""
    try:
        yield
    except DamagedFileError as error:
        blob = error.path.resolve()  # a snapshot is made of links to blobs (copies on Windows)
        error.path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise ModelError(
            f"the download of {repository} is damaged: {error.what}", "try again; the bad file was removed"
        ) from error


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """No log lines from the hub library (its errors are raised), and progress bars on a terminal only."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, hidden = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty() and not hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not hidden:
            enable_progress_bars()
