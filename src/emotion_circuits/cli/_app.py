"""The root command: its verbs, and what every failure looks like to the user.

A verb is one file ``cli/VERB.py`` with ``app = App(name="VERB", …)``. Its file is imported when the verb is used, so
that ``--help`` stays quick; a new verb is one line in :data:`VERBS`.
"""

from __future__ import annotations

import errno
import io
import os
import pkgutil
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from emotion_circuits import __version__
from emotion_circuits.cli import _failures
from emotion_circuits.errors import EmotionCircuitsError

VERBS: dict[str, str] = {
    "doctor": "What works here, and what to type when it does not.",
    "models": "List, fetch and show models.",
    "prompts": "List, show, validate and build prompt sets.",
    "study": "Run a whole study, with a report; resumes where it was.",
    "run": "Run one experiment on one model.",
    "readout": "Show which emotion every token of a text holds.",
    "vectors": "Show, export and import emotion vectors.",
    "stats": "Effects, power and multiplicity from the results of a profile.",
    "report": "Write the report of a profile.",
    "explore": "Open the local web page: results and live steering.",
    "score": "Score texts of a file, and measure evaluators on labelled ones.",
    "ls": "List the runs on disk.",
    "track": "Show runs in MLflow or Weights & Biases, and send what is missing.",
    "export": "Write results in other programs' formats.",
    "cache": "Show and clean what was downloaded and converted.",
    "bench": "Measure speed and memory on this machine.",
}
"""Every verb and its line in ``--help``, in that order; a verb is offered once its file ``cli/VERB.py`` exists."""

_ROOT_HELP = """Where language models hold emotions, whether two models share them, and what they cause.

Start with `emotion-circuits study quickstart`; `emotion-circuits VERB --help` shows every option of a verb.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 partly done. Results are kept: the same command resumes."""


def available_verbs() -> list[str]:
    """The verbs whose file is part of this installation, in the order of ``--help``."""
    import emotion_circuits.cli as package

    present = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return [verb for verb in VERBS if verb in present]


def build_app(used: str | None = None) -> App:
    """The root command with its verbs registered by name only (nothing of theirs is imported).

    ``used`` is the verb that is about to run: it keeps the help of its own file, the others have their line above.
    """
    app = App(
        name="emotion-circuits",
        help=_ROOT_HELP,
        version=__version__,
        # `--layers 4 8 12` instead of repeating the option; options have no `--no-…` or `--empty-…` twins.
        default_parameter=Parameter(consume_multiple=(1, sys.maxsize), negative_iterable=(), negative_bool=()),
        # Failures are worded here, in one style.
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for position, verb in enumerate(available_verbs()):
        app.command(
            f"emotion_circuits.cli.{verb}:app", name=verb, help=None if verb == used else VERBS[verb], sort_key=position
        )
    return app


def run_command_line(tokens: Sequence[str] | None = None) -> int:
    """Run ``tokens`` (``sys.argv`` by default) and return the exit code; see :func:`emotion_circuits.cli.main`.

    Failures that a user can understand become one paragraph on stderr. Anything else is a defect of this program: it
    is raised, and the hook installed here writes the traceback to a file and names that file.
    """
    arguments = _sentences_joined(sys.argv[1:] if tokens is None else tokens)
    sys.excepthook = _failures.report_defect
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8 shows an escape instead of ending the run on the first typographic dash.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = build_app(used=next(iter(arguments), None))(arguments)
        sys.stdout.flush()
    except EmotionCircuitsError as error:
        return _failures.show(error)
    except CycloptsError as error:
        return _failures.show(_failures.reword(error, available_verbs()))
    except KeyboardInterrupt:
        return _failures.show_line("stopped; the same command resumes", 130)
    except BrokenPipeError:
        # The reader went away (`| head`): quiet, and Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        if not _failures.is_pydantic(error):
            raise
        return _failures.show(_failures.invalid_parameters(error, "check the values that the message names"))
    except (MemoryError, RuntimeError) as error:
        from emotion_circuits.experiments._memory import is_out_of_memory, out_of_memory

        if not is_out_of_memory(error):
            raise
        return _failures.show(out_of_memory(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _failures.show(_failures.refused_by_system(error))
    return code if isinstance(code, int) else 0


def _sentences_joined(tokens: Sequence[str]) -> list[str]:
    """``--expression "-0.2 anger"`` as ``--expression=-0.2 anger``: words with spaces are a value, no option."""
    joined: list[str] = []
    for token in tokens:
        sentence = token.startswith("-") and not token.startswith("--") and any(c.isspace() for c in token)
        if sentence and joined and joined[-1].startswith("--") and joined[-1] != "--" and "=" not in joined[-1]:
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined
