"""Prompts as a user's turn of a chat, by the model's own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jinja2 import TemplateError

from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Prompt

_MARK = "\ue000\ue001"
"""Private-use characters that stand for the text while its place in the template is looked for."""

_DATE = "26 Jul 2024"
"""Some templates print today's date, which would give another text every day; this is Llama 3.1's own default."""


def chat_prompts(lm: LM, prompts: Sequence[Prompt], *, system: str | None = None) -> list[Prompt]:
    """The prompts' texts as a user's turn with the head of the answer behind it, ready to be continued.

    Character spans move with the text. The prefix token that :meth:`~emotion_circuits.models.lm.LM.encode` puts in
    front is taken off the template's text, so that it is not there twice. The template's own tokens count as content:
    position ``last`` is the end of the answer's head, and ``all`` covers the template.

    Raises:
        UsageError: a model without a template, a template that has no place for ``system``, or one that changes texts.
    """
    if not getattr(lm.tokenizer, "chat_template", None):
        raise UsageError(
            f"{lm.name} has no chat template: it is not an instruction-tuned model, or its tokenizer was saved without",
            "leave the chat option out, or choose an instruct model",
        )
    place = _render(lm, _MARK, system).find(_MARK)
    return [_wrap(lm, prompt, system, place) for prompt in prompts]


def _wrap(lm: LM, prompt: Prompt, system: str | None, place: int) -> Prompt:
    text = _render(lm, prompt.text, system)
    stripped = prompt.text.strip()  # many templates trim the text
    lead = 0 if text.startswith(prompt.text, max(place, 0)) else len(prompt.text) - len(prompt.text.lstrip())
    if place < 0 or not text.startswith(stripped if lead else prompt.text.rstrip(), place):
        raise UsageError(
            f"the chat template of {lm.name} changes the text of prompt {prompt.id!r}, so its words cannot be found",
            "leave the chat option out for this model",
        )
    spans = tuple((s - lead + place, e - lead + place) for s, e in prompt.spans)
    return replace(prompt, text=text, spans=spans)


def _render(lm: LM, text: str, system: str | None) -> str:
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": text})
    try:
        rendered = lm.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, date_string=_DATE
        )
    except TemplateError as error:
        raise UsageError(
            f"the chat template of {lm.name} refuses these turns: {error}", "leave the system text out"
        ) from None
    # The prefix of the model may be two tokens; what it reads as is what the template may have written.
    prefix = "".join(lm.tokenizer.convert_ids_to_tokens(list(lm.prefix_ids)))
    return str(rendered).removeprefix(prefix) if prefix else str(rendered)
