"""``emotion-circuits vectors``: what the fitted directions promote, and taking them to other programs and back."""

from __future__ import annotations

import json as json_module
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._bench import loader
from emotion_circuits.cli._console import print_json, print_table, print_text, say
from emotion_circuits.cli._options import COMPUTE_OPTIONS, RESULT_OPTIONS, ComputeOptions, ResultOptions
from emotion_circuits.errors import EmotionCircuitsError, UsageError

if TYPE_CHECKING:
    from emotion_circuits.representations.exchange import VectorFile
    from emotion_circuits.store import Run

app = App(name="vectors", help="Show, export and import emotion vectors.")

Model = Annotated[str, Parameter(help="Model whose directions were fitted: alias, hub id, folder or .gguf file.")]
ProfileName = Annotated[str, Parameter(help="Profile or prompt set that the directions were fitted in.")]
RunKey = Annotated[str | None, Parameter(name="--run", help="Key of a `directions` run (default: the newest).")]
Position = Annotated[str, Parameter(help="Token position the directions were fitted at.")]
Layer = Annotated[int | None, Parameter(help="Layer (for an expression: where it names none; default: half-way).")]


@app.command
def export(
    expression: Annotated[
        str, Parameter(help='What the vector adds: "0.4 gratitude @ L14 - 0.2 anger".', allow_leading_hyphen=True)
    ],
    *,
    output: Annotated[Path, Parameter(help="File to write; .gguf, .json (Neuronpedia), .npz or .csv.")],
    model: Model = "smollm2-135m",
    profile: ProfileName = "baseline",
    run: RunKey = None,
    position: Position = "mean-content",
    layer: Layer = None,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Write what a steering expression adds to the residual stream, with a card of where it comes from."""
    from emotion_circuits.experiments.directions import load_directions
    from emotion_circuits.representations.exchange import expressed, write_vectors

    found = _directions(options.results, profile, model, run)
    directions = load_directions(found, "resid_post", position)
    content = expressed(expression, directions, _provenance(found, model, position), layer=layer)
    written, card = write_vectors(output, content)
    if options.json:
        print_json({"file": written, "card": card, **content.card.to_dict()})
        return 0
    _show(content)
    print_text(f"written: {written} and {card}")
    return 0


@app.command(name="import")
def import_(
    file: Annotated[Path, Parameter(help="A vector file: .gguf, .json (Neuronpedia), .npz or .csv.")],
    *,
    output: Annotated[
        Path | None, Parameter(help="Write it again: another of these formats, or .safetensors for `run steer`.")
    ] = None,
    layer: Annotated[int | None, Parameter(help="Only this layer (a .safetensors file holds one vector).")] = None,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Read vectors that this or another program wrote, show what they are, and write them in another format."""
    from emotion_circuits.representations.exchange import VectorFile, read_vectors, write_vectors

    content = read_vectors(file)
    if layer is not None:
        if layer not in content.vectors:
            known = ", ".join(map(str, content.vectors))
            raise UsageError(f"{file} has no vector at layer {layer}", f"choose one of {known}")
        content = VectorFile({layer: content.vectors[layer]}, content.card)
    if output is not None and output.suffix == ".safetensors":
        _write_tensor(output, content)
    elif output is not None:
        write_vectors(output, content)
    if options.json:
        vectors = {str(at): v for at, v in content.vectors.items()}
        print_json({"file": file, "written": output, "card": content.card.to_dict(), "vectors": vectors})
        return 0
    _show(content)
    if output is not None:
        print_text(f"written: {output}")
        if output.suffix == ".safetensors":
            (at,) = content.vectors
            print_text(
                f"steer with it: emotion-circuits run steer --vector {output} --layer {at} --unit raw --strengths 1"
            )
    return 0


@app.command
def promoted(
    *emotions: Annotated[str, Parameter(help="Only these emotions (default: all that have a direction).")],
    model: Model = "smollm2-135m",
    profile: ProfileName = "baseline",
    run: RunKey = None,
    position: Position = "mean-content",
    layer: Annotated[
        int | None, Parameter(help="Layer (default: the last one; far from it, the head reads fragments).")
    ] = None,
    count: Annotated[int, Parameter(help="Tokens to list on each side.", validator=Number(gte=1))] = 8,
    options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
) -> int:
    """List the next tokens that each direction makes likelier and unlikelier, read through its own head."""
    from emotion_circuits.experiments.directions import load_directions
    from emotion_circuits.representations.readout import promoted_tokens

    found = _directions(options.results, profile, model, run)
    directions = load_directions(found, "resid_post", position)
    lm = loader(options)(model)
    _require_same_weights(found, lm.fingerprint, lm.name)
    at = directions.layers[-1] if layer is None else layer
    tables = {e: promoted_tokens(lm, directions, e, at, count) for e in emotions or directions.emotions}
    if options.json:
        print_json({"model": lm.name, "layer": at, "run": found.key, "emotions": tables})
        return 0
    rows = [
        {"emotion": e if n == 0 else "", "way": way, "tokens": " ".join(_token(t["token"]) for t in table[side])}
        for e, table in tables.items()
        for n, (side, way) in enumerate((("up", "+"), ("down", "−")))
    ]
    print_table(rows, {"emotion": "emotion", "way": "", "tokens": f"next tokens promoted and held back at layer {at}"})
    return 0


def _directions(results: Path, profile: str, model: str, key: str | None) -> Run:
    """A finished ``directions`` run, without loading its model."""
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.models.registry import model_slug
    from emotion_circuits.store import Store

    name, slug, path = load_profile(profile).name, model_slug(model), str(Path(model).expanduser().resolve())
    # A folder's or file's results are named after it and six digits: runs say where their model lies.
    known = [r for r in Store(results).find(name, experiment="directions")
             if r.done and (r.model == slug or path in r.recorded.get("addresses", ()))]  # fmt: skip
    words = ["emotion-circuits", "run", "directions", "--model", model, "--profile", profile]
    again = shlex.join([*words, "--results", str(results)])
    if not known:
        raise UsageError(f"no finished directions of {model} in profile {name!r} in {results}", again)
    if key is None:
        return known[-1]
    chosen = next((r for r in known if r.key == key), None)
    if chosen is None:
        raise UsageError(f"no finished directions run {key!r}; there are {', '.join(r.key for r in known)}", again)
    return chosen


def _provenance(run: Run, model: str, position: str) -> dict[str, Any]:
    spec = run.read_json("spec.json")
    made = spec["inputs"]["model"]
    return {
        "model": made["name"],
        "architecture": _architecture(model),
        "weights": made["weights"],
        "tokenizer": made["tokenizer"],
        "profile": run.profile,
        "run": run.key,
        "prompts": spec["inputs"].get("sets", {}),
        "position": position,
        "versions": spec["versions"],
    }


def _architecture(model: str) -> str:
    """What llama.cpp calls the model's architecture; its own name where the model is not on this machine."""
    from emotion_circuits.models.sources import resolve_source

    try:
        folder = resolve_source(model, offline=True).folder
        config = json_module.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (EmotionCircuitsError, OSError, ValueError):
        return model
    kind = str((config.get("text_config") or config).get("model_type", model))
    return {"gpt_neox": "gptneox", "gemma3_text": "gemma3", "mistral": "llama"}.get(kind, kind)


def _require_same_weights(run: Run, fingerprint: str, name: str) -> None:
    made_for = run.read_json("spec.json")["inputs"]["model"]["weights"]
    if made_for != fingerprint:
        raise UsageError(
            f"the directions of run {run.key} were fitted on other weights than those of {name} loaded here",
            "give the --dtype they were fitted with, or fit them again",
        )


def _write_tensor(path: Path, content: VectorFile) -> None:
    from emotion_circuits.store import write_tensors

    if len(content.vectors) != 1:
        raise UsageError(
            f"a .safetensors file holds one vector, and there are {len(content.vectors)}", "give --layer N"
        )
    ((layer, vector),) = content.vectors.items()
    made_for = {"weights": content.card.weights} if content.card.weights else {}
    write_tensors(path, {f"layer_{layer}": vector}, made_for)


def _show(content: VectorFile) -> None:
    import numpy as np

    card = content.card
    rows = [
        {"layer": at, "width": len(v), "length": float(np.linalg.norm(v)), "norm": card.norms.get(str(at))}
        for at, v in content.vectors.items()
    ]
    headings = {"layer": "layer", "width": "width", "length": "length", "norm": "mean residual norm"}
    print_table(rows, headings, card.expression or "no card: from another program")
    if card.run:
        say(f"{card.model}, weights {card.weights}, {card.position}, run {card.run} of profile {card.profile}")


def _token(token: str) -> str:
    return json_module.dumps(token.strip(), ensure_ascii=False)[1:-1] or "␣"
