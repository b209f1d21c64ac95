"""What every source resolves to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that lies complete on this machine.

    ``folder`` holds ``config.json``, safetensors weights and tokenizer files. ``name`` is the slug of results folders.
    ``source`` says in words where the weights come from and ``revision`` which version (commit of a hub repository,
    version of a wheel, SHA-256 of a GGUF file; None for a folder). ``prefix_token`` is the token put before each text,
    None to use the tokenizer's own BOS. ``dequantised`` weights were quantised once, so they are not the
    publisher's. ``notices`` are to be shown to the user (licence terms, a fallback that was taken). ``address`` is what
    to type to have the same model again, from any folder of this machine.
    """

    folder: Path
    name: str
    source: str
    revision: str | None = None
    prefix_token: str | None = None
    dequantised: bool = False
    notices: tuple[str, ...] = ()
    address: str = ""
