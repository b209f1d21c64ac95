"""``emotion-circuits explore``: a local web page to browse results and steer a model live."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._bench import loader
from emotion_circuits.cli._console import print_json, print_text, say
from emotion_circuits.cli._options import MODEL_OPTIONS, ModelOptions
from emotion_circuits.errors import EmotionCircuitsError

app = App(name="explore", help="Open the local web page: results and live steering.")


@app.default
def explore(
    results: Annotated[
        Path, Parameter(help="Folder of results to browse; its fitted directions can be steered.")
    ] = Path("results"),
    *,
    port: Annotated[
        int, Parameter(help="Port on 127.0.0.1 (default: a free one).", validator=Number(gte=0, lte=65535))
    ] = 0,
    profile: Annotated[tuple[Path, ...], Parameter(help="Files of profiles that do not come with the package.")] = (),
    open_browser: Annotated[
        bool, Parameter(name="--open", help="Open the page in the default browser.", show_default=False)
    ] = False,
    options: Annotated[ModelOptions, Parameter(name="*")] = MODEL_OPTIONS,
) -> int:
    """Serve the page on this machine only, at an address with a secret in it; Ctrl-C ends it."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise EmotionCircuitsError(
            f"the page needs {' and '.join(missing)}, which is not installed", "pip install -e '.[serve]'"
        )
    from emotion_circuits.explorer.live import Live
    from emotion_circuits.explorer.serve import serve

    def ready(address: str) -> None:
        if options.json:
            print_json({"address": address, "results": results})
        else:
            print_text(address)
        sys.stdout.flush()
        say(f"browse {results} and steer; Ctrl-C ends it", quiet=options.quiet)
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    files = {path.stem: str(path) for path in profile}
    serve(Live(results, loader(options), files, _shell_options(options)), port, ready)
    return 0


def _shell_options(options: ModelOptions) -> tuple[str, ...]:
    """The options that a command in a shell needs to load the same model in the same way."""
    words: list[str] = []
    if options.dtype != MODEL_OPTIONS.dtype:
        words += ["--dtype", options.dtype]
    if options.device != MODEL_OPTIONS.device:
        words += ["--device", options.device]
    if options.device_map is not None:
        words += ["--device-map", options.device_map]
    if options.offline:
        words += ["--offline"]
    if options.cache is not None:
        words += ["--cache", str(options.cache)]
    return tuple(words)
