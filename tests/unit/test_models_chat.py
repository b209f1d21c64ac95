"""Prompts in a chat template: words stay where their spans say, the prefix stands once."""

from __future__ import annotations

import pytest

from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.errors import UsageError
from emotion_circuits.models.chat import chat_prompts
from emotion_circuits.types import Positions, Prompt
from tiny_models import metaspace_tokenizer, tiny_lm

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content %s }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model] {% endif %}"
)
PROMPT = Prompt("p", "  Thank you for the parcel. ", emotion="gratitude", spans=((2, 7),), scenario="s1")


@pytest.fixture
def lm():
    return tiny_lm("gemma3_text", metaspace_tokenizer())


@pytest.mark.parametrize("trim", ["", "| trim"])
@pytest.mark.parametrize("system", [None, "Thank you for being brief."])
def test_spans_move_with_the_text(lm, trim, system):
    lm.tokenizer.chat_template = TEMPLATE.replace("%s", trim)
    (wrapped,) = chat_prompts(lm, [PROMPT], system=system)
    start, end = wrapped.spans[0]
    assert wrapped.text[start:end] == "Thank"
    assert wrapped.text[:start].rstrip().endswith("[user]")
    assert wrapped.text.endswith("[model] ")
    assert (wrapped.id, wrapped.emotion, wrapped.scenario) == ("p", "gratitude", "s1")
    (encoded,) = lm.encode([wrapped])
    assert encoded.ids.count(lm.tokenizer.bos_token_id) == 1
    found = prompt_indices(encoded, Positions("emotion-word"))
    assert "".join(wrapped.text[slice(*encoded.offsets[i])] for i in found).strip() == "Thank"


def test_a_model_without_a_template_says_so(lm):
    with pytest.raises(UsageError, match="no chat template"):
        chat_prompts(lm, [PROMPT])


def test_templates_that_change_texts_or_refuse_turns_are_refused(lm):
    lm.tokenizer.chat_template = TEMPLATE.replace("%s", "| upper")
    with pytest.raises(UsageError, match="changes the text"):
        chat_prompts(lm, [PROMPT])
    lm.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UsageError, match="no system role"):
        chat_prompts(lm, [PROMPT], system="Be brief.")
