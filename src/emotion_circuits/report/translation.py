"""A report's sentences in another language, from a list of the sentences that experiments write.

Experiments write English once; ``sentences/{language}.toml`` holds each sentence with ``{places}`` for what changes in
it (a place with a capital letter holds words that have a translation of their own; ``_HOLDS`` says which ones hold less
than anything). A sentence without an entry stays English: nothing is lost when an experiment says something new. Texts
that a model or a user wrote are never touched.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, lru_cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from emotion_circuits.report.commands import OF_MODEL
from emotion_circuits.report.words import DEFAULT_LANGUAGE

if TYPE_CHECKING:
    from emotion_circuits.types import Figure, Report, Section, Table

_PLACE = re.compile(r"\{(\w+)\}")
_GIVEN = r"(?: \[[^\]=]+=[^\]]*\])?"
"""What a run was given may stand behind a name."""
_MARK = re.compile(r"(\[[^\]=]+=[^\]]*\] )(.+)", re.DOTALL)
"""Or in front of a verdict."""
_NAME, _NUMBER = r"[^\s:：]+" + _GIVEN, r"[-+−]?[\d.]+|nan"
_TERM = r"[^\s:：]+ [^\s:：]+ @ L\d+"
_HOLDS = {
    "layer": r"\d+", "n": r"[\d,]+", "k": r"[\d,]+", "experiment": r"\S+",
    **dict.fromkeys(("emotion", "emotion2", "source", "target", "first", "second"), _NAME),
    # A run may be of a pair of models where others are of one.
    **dict.fromkeys(("model", "pair"), r"[^\s:：,]+(?: → [^\s:：,]+)?" + _GIVEN),
    **dict.fromkeys(("lowest", "highest"), _NUMBER),
    # A verdict, in front of which its model stands, names what it is about.
    "Answer": r".+: .+",
    "terms": rf"{_TERM}(?: [-+] {_TERM})*",
}  # fmt: skip
"""Places that hold less than anything, so that a short label never matches a whole sentence: that would come out half
translated, and would not be counted as untranslated."""
_LABELS = ("series", "label", "group", "row", "column", "arm")
"""Keys of a figure's rows whose values are labels."""
_OWN_WORDS = ("argument", "checklist")
"""Tables whose cells are sentences of this package; those of other tables may be anybody's texts."""
_OWN_COLUMNS = (
    "verdict", "measure", "measured", "check", "reason", "arm", "against", "control", "what", "way", "donor", "roles",
    "method", "over", "strength_ci", "shuffled", "random", "transfer_shuffled",
)  # fmt: skip
"""Columns of any table whose cells are words of this package."""
_OF_SETS = (("directions", "beside"), ("directions", "test-sets"))
"""(section, table or figure) whose headings or groups name prompt sets, which may be called like words of ours."""
_OF_EMOTIONS = (
    ("overlap", "clusterability"), ("overlap", "overlap-cosines"), ("readout", "tokens"),
    ("real-world", "real-world-texts"), ("iterative", "iterative-texts"),
)  # fmt: skip
"""(section, table) with a heading for every emotion or condition: a name that has no translation is not missed."""
_LETTERS = re.compile("[A-Za-z]{2}")
"""What has none of these (a symbol, a number) needs no translation."""


class Catalogue:
    """Sentences of one language; ``catalogue(text)`` is the translation, or the text itself where there is none."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = entries
        self.unknown: set[str] = set()
        self._translated = lru_cache(maxsize=None)(self._translate)

    def __call__(self, text: str) -> str:
        found = self._translated(text)
        return text if found is None else found

    def sentence(self, text: str) -> str:
        """As a call, and remembers a sentence that has no translation."""
        if _LETTERS.search(text) and self._translated(text) is None:
            self.unknown.add(text)
        return self(text)

    def _translate(self, text: str) -> str | None:
        if text in self.entries:
            return self.entries[text]
        if marked := _MARK.fullmatch(text):
            line = self._translated(marked[2])
            return None if line is None else marked[1] + line
        # Verdicts are lines of a summary, without a full stop, and sentences of a section, with one.
        bare, stop = (text[:-1], "。") if text.endswith(".") else (text, "")
        if bare in self.entries:
            return self.entries[bare] + stop
        for source, pattern in self._patterns:
            whole = source.endswith(".")
            if found := pattern.fullmatch(text if whole else bare):
                said = self._filled(self.entries[source], found.groupdict())
                if said is not None:
                    return said if whole else said + stop
        return None

    def _filled(self, target: str, values: Mapping[str, str]) -> str | None:
        """The translation with its places filled; None where words of a place with a capital letter have none."""
        words = {name: self._translated(value) if _is_words(name, value) else value for name, value in values.items()}
        if None in words.values():
            return None
        return _PLACE.sub(lambda place: str(words[place[1]]), target)

    @cached_property
    def _patterns(self) -> Sequence[tuple[str, re.Pattern[str]]]:
        """Sentences with places, the most specific first: the one with most letters of its own."""
        open_ended = [source for source in self.entries if _PLACE.search(source)]
        open_ended.sort(key=lambda source: -len(_PLACE.sub("", source)))
        return [(source, _pattern(source)) for source in open_ended]


def translated(report: Report, language: str) -> tuple[Report, int]:
    """The report in ``language``, and how many of its sentences stayed English."""
    if language == DEFAULT_LANGUAGE:
        return report, 0
    say = Catalogue(entries(language))
    shown = dataclasses.replace(
        report,
        title=say.sentence(report.title),
        verdicts=tuple(
            dataclasses.replace(
                v, question=say.sentence(v.question), answers=_each(say, v.answers), reason=say.sentence(v.reason)
            )
            for v in report.verdicts
        ),
        sections=tuple(_section(section, say) for section in report.sections),
        methods=_each(say, report.methods),
        provenance={say(key): say(value) for key, value in report.provenance.items()},
    )
    return shown, len(say.unknown)


@cache
def entries(language: str) -> Mapping[str, str]:
    """English sentence → sentence, from ``sentences/{language}.toml``; none for a language without that file."""
    file = resources.files(__package__).joinpath("sentences", f"{language}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _is_words(name: str, value: str) -> bool:
    """Whether a place holds words of ours: it says so by its capital letter, and a bare number needs no translation."""
    return name[0].isupper() and any(character.isalpha() for character in value)


def _pattern(source: str) -> re.Pattern[str]:
    parts = _PLACE.split(source)  # literal, name, literal, name, … literal
    places = (f"(?P<{p}>{_held(p)})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    return re.compile("".join(places), re.DOTALL)


def _held(place: str) -> str:
    """What a place holds, as a pattern; ``{registered}`` names of experiments, where hardly a word stands beside it."""
    if place == "registered":
        from emotion_circuits.experiments import experiments

        return "|".join(map(re.escape, experiments()))
    return _HOLDS.get(place, ".+?")


def _each(say: Catalogue, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(say.sentence, texts))


def _section(section: Section, say: Catalogue) -> Section:
    return dataclasses.replace(
        section,
        heading=_heading(section.heading, say),
        answer=_each(say, section.answer),
        figures=tuple(_figure(figure, section.name, say) for figure in section.figures),
        tables=tuple(_table(table, section.name, say) for table in section.tables),
        limits=_each(say, section.limits),
    )


def _heading(heading: str, say: Catalogue) -> str:
    """A heading may be followed by a model's name, which stays, and by what its run was given."""
    shared, *others = heading.split(OF_MODEL)
    return OF_MODEL.join([say.sentence(shared), *(say(o) if o.startswith("with ") else o for o in others)])


def _figure(figure: Figure, section: str, say: Catalogue) -> Figure:
    label = partial(_set_name, say=say) if (section, figure.name) in _OF_SETS else say
    return dataclasses.replace(
        figure,
        title=say.sentence(figure.title),
        caption=say.sentence(figure.caption),
        alt=say.sentence(figure.alt),
        data=tuple(_relabelled(row, _LABELS, label) for row in figure.data),
        options={key: say.sentence(v) if isinstance(v, str) else v for key, v in figure.options.items()},
    )


def _table(table: Table, section: str, say: Catalogue) -> Table:
    place = (section, table.name)
    named = partial(_set_name, say=say) if place in _OF_SETS else say if place in _OF_EMOTIONS else say.sentence
    own = tuple(table.columns) if table.name in _OWN_WORDS else _OWN_COLUMNS
    rows = tuple(_relabelled(row, own, say) for row in table.rows)
    return dataclasses.replace(
        table,
        title=say.sentence(table.title),
        caption=say.sentence(table.caption),
        # Only a heading that repeats its key can be a name.
        columns={key: named(head) if head == key else say.sentence(head) for key, head in table.columns.items()},
        rows=rows,
    )


def _set_name(text: str, say: Callable[[str], str]) -> str:
    """What names a prompt set stays, unless something is said of the set."""
    return say(text) if " " in text or text == "emotion" else text


def _relabelled(row: Mapping[str, Any], keys: Sequence[str], say: Callable[[str], str]) -> Mapping[str, Any]:
    changed = {key: say(row[key]) for key in keys if isinstance(row.get(key), str)}
    return {**row, **changed}
