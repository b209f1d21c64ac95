"""From a request of the page to an edit, and to the command that writes the same text in a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emotion_circuits.errors import UsageError

T = TypeVar("T", bound=BaseModel)

LONGEST_TEXT = 20_000
"""Characters of a prompt that is read at all: no model here has positions for more words in reasonable time."""


class SteerRequest(BaseModel):
    """What the page asks to be written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(min_length=1, max_length=LONGEST_TEXT)
    expression: str = Field(min_length=1, max_length=2_000)
    max_new_tokens: int = Field(30, ge=1, le=512)
    temperature: float = Field(0.0, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(0.9, gt=0, le=1)
    seed: int = Field(0, ge=0, le=2**32 - 1)


class LoadRequest(BaseModel):
    """Which model, with the directions of which profile."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=500)
    profile: str = Field(min_length=1, max_length=500)


class PromotedRequest(BaseModel):
    """At which layer directions are read as next tokens, and how many tokens a side."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layer: int = Field(ge=0, le=10_000)
    count: int = Field(8, ge=1, le=50)


@dataclass(frozen=True)
class Place:
    """What a shell command needs to know besides the request: where the model and the results are."""

    model: str
    profile: str
    results: str
    options: tuple[str, ...] = ()


def checked(kind: type[T], content: Any) -> T:
    """The request, or an error that names the first field that is wrong."""
    try:
        found = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise UsageError(f"{where}: {first['msg']}", f"fields: {', '.join(kind.model_fields)}") from error
    if isinstance(found, SteerRequest) and not found.text.strip():
        raise UsageError("text: there is no text to continue", "write the beginning of a text")
    if isinstance(found, SteerRequest) and any("\ud800" <= c <= "\udfff" or c == "\0" for c in found.text):
        raise UsageError("text: it holds a character that no text has", "remove it")
    return found


def steer_params(request: SteerRequest) -> Mapping[str, Any]:
    """The parameters of ``run steer`` that the request stands for."""
    given: dict[str, Any] = {"text": (request.text,), "expression": request.expression}
    given["max_new_tokens"] = request.max_new_tokens
    if request.temperature:
        given |= {"temperature": request.temperature, "top_p": request.top_p}
    return given


def command(request: SteerRequest, place: Place) -> str:
    """The shell command that writes the same texts, and keeps them in the results folder."""
    words = ["emotion-circuits", "run", "steer", "--model", place.model, "--profile", place.profile]
    words += [f"--text={request.text}", f"--expression={request.expression}"]
    words += ["--max-new-tokens", str(request.max_new_tokens)]
    if request.temperature:
        words += ["--temperature", repr(request.temperature), "--top-p", repr(request.top_p)]
    words += ["--seed", str(request.seed), "--results", place.results, *place.options]
    return shlex.join(words)
