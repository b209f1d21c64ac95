"""``emotion-circuits doctor``: what works here, and whether a model keeps its contract."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from emotion_circuits.cli._bench import loader
from emotion_circuits.cli._console import print_json, print_table, print_text, size_text
from emotion_circuits.cli._options import MODEL_OPTIONS, ModelOptions

app = App(name="doctor", help="What works here, and what to type when it does not.")


@app.default
def doctor(
    model: Annotated[str | None, Parameter(help="A model to check: alias, hub id, folder or .gguf file.")] = None,
    *,
    options: Annotated[ModelOptions, Parameter(name="*")] = MODEL_OPTIONS,
) -> int:
    """Check this machine, or (with MODEL) every clause of the contract on a model's real weights."""
    return _machine(options) if model is None else _model(model, options)


def _model(source: str, options: ModelOptions) -> int:
    from emotion_circuits.engine.verify import verify_family

    lm = loader(options)(source)
    checks = verify_family(lm)
    ok = all(c.ok for c in checks)
    if options.json:
        facts = {"model": lm.name, "source": lm.source, "family": lm.family.name, "layers": lm.n_layers,
                 "heads": lm.n_heads, "kv_heads": lm.n_kv_heads, "d_model": lm.d_model, "d_head": lm.d_head,
                 "dtype": str(lm.dtype), "device": str(lm.device), "fingerprint": lm.fingerprint}  # fmt: skip
        print_json({**facts, "ok": ok, "checks": checks})
        return 0 if ok else 1
    print_text(f"{lm}\n{lm.source}\n")
    rows = [{"holds": "yes" if c.ok else "NO", "check": c.name, "measured": c.detail} for c in checks]
    print_table(rows, {"holds": "holds", "check": "contract", "measured": "measured"})
    failed = [c for c in checks if not c.ok]
    if failed:
        print_text(f"{len(failed)} of {len(checks)} checks FAILED: results on this model would not mean what they say.")
        print_text("  → choose another model, or add a family file for its architecture (see ARCHITECTURE.md)")
    else:
        print_text(f"all {len(checks)} checks hold")
    return 0 if ok else 1


def _machine(options: ModelOptions) -> int:
    checks = [_python(), _torch(), _memory(), _cache(options), _embedded(options), _optional()]
    ok = all(c["ok"] for c in checks)
    if options.json:
        print_json({"ok": ok, "checks": checks})
    else:
        rows = [{**c, "state": "ok" if c["ok"] else "NO"} for c in checks]
        print_table(rows, {"state": "", "what": "what", "found": "found", "fix": "what to type"})
        print_text("Check a model: emotion-circuits doctor smollm2-135m")
    return 0 if ok else 1


def _check(what: str, ok: bool, found: str, fix: str = "") -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "fix": "" if ok else fix}


def _python() -> dict[str, Any]:
    import platform

    from emotion_circuits import __version__

    return _check("package", True, f"emotion-circuits {__version__}, Python {platform.python_version()}")


def _torch() -> dict[str, Any]:
    import torch
    import transformers

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.mps.is_available() else [])]
    found = f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    return _check("compute", True, f"{found}; devices: {', '.join(devices)}")


def _memory() -> dict[str, Any]:
    import os

    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return _check("memory", True, "unknown on this system")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _check("memory", total > 3e9, size_text(total), "SmolLM2-135M needs about 2 GB free")


def _cache(options: ModelOptions) -> dict[str, Any]:
    import os
    import shutil

    from emotion_circuits.models.cache import cache_root

    root = cache_root(options.cache)
    place = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(place).free
    ok = os.access(place, os.W_OK) and free > 2e9
    return _check("cache", ok, f"{root}, {size_text(free)} free", "free some space, or give another --cache")


def _embedded(options: ModelOptions) -> dict[str, Any]:
    from emotion_circuits.models.cache import list_entries

    names = [entry.name for entry in list_entries(options.cache)]
    found = ", ".join(names) or "none yet"
    return _check("models", bool(names), found, "emotion-circuits models fetch smollm2-135m")


def _optional() -> dict[str, Any]:
    import importlib.util
    import shutil

    chromium = next((name for name in ("chromium", "google-chrome", "chromium-browser") if shutil.which(name)), None)
    bridge = importlib.util.find_spec("transformer_lens") is not None
    found = f"TransformerLens {'yes' if bridge else 'no'}; Chromium {chromium or 'no'}"
    return _check("optional", True, f"{found} (for tests only)")
