"""Is this prompt set fit for measuring with? Every rule is one function that yields findings.

Rules follow from how the texts are used: results are clustered by scenario, fitted on one split and reported on
another, so nothing may leak between splits; and a label must not be told from anything but its emotion.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from emotion_circuits.prompts.balance import surface_auroc
from emotion_circuits.prompts.lexicon import Lexicon, find_words, forms_of, lexicon_of, load_lexicons
from emotion_circuits.prompts.overlap import BAG_LIMIT, FOUR_GRAM_LIMIT, alike_pairs, bag, four_grams
from emotion_circuits.prompts.schema import Level, Problem, Row, check_text, end_mark
from emotion_circuits.prompts.splits import SPLITS
from emotion_circuits.prompts.statistics import is_paired, words
from emotion_circuits.types import NEUTRAL, Prompt

AUROC_LIMIT = 0.6
OPENING_SHARE = 0.05
RELIABLE_TEXTS = 30
"""With fewer texts of a label the surface classifier's AUROC is too noisy to be more than a warning."""

Forms = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault at prompt number ``index`` (``None``: of the set as a whole)."""

    index: int | None
    field: str
    message: str
    level: Level = "error"


def validate(
    prompts: Sequence[Prompt],
    lexicons: Mapping[str, Lexicon] | None = None,
    rows: Sequence[Row] = (),
) -> list[Problem]:
    """Every problem of a prompt set, in the order of its lines.

    Args:
        prompts: the set. A set with one label only (a pool of neutral text) is not asked for balance.
        lexicons: emotion → lemma → forms; where it is ``None`` the built-in ones and the user's own of its labels.
        rows: where each prompt came from, in the same order; without it problems name the prompt's number.
    """
    if lexicons is None:
        own = {emotion: lexicon_of(emotion) for emotion in {p.emotion for p in prompts}}
        lexicons = {**load_lexicons(), **{emotion: lexicon for emotion, lexicon in own.items() if lexicon}}
    forms = {emotion: forms_of(lexicon) for emotion, lexicon in lexicons.items()}
    problems = []
    for rule in RULES:
        for finding in rule(prompts, forms):
            if finding.index is None:
                file, line = (rows[0].file if rows else "prompts"), 0
            elif rows:
                file, line = rows[finding.index].file, rows[finding.index].line
            else:
                file, line = "prompts", finding.index + 1
            problems.append(Problem(file, line, finding.field, finding.level, finding.message))
    return sorted(problems)


def fields_are_filled(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Text, id and label are there; a prompt that was made in Python has met no schema."""
    if not prompts:
        yield Finding(None, "text", "the set holds no prompt")
    for index, prompt in enumerate(prompts):
        for field in ("id", "emotion"):
            if not getattr(prompt, field).strip():
                yield Finding(index, field, "is empty")
        try:
            check_text(prompt.text)
        except ValueError as error:
            yield Finding(index, "text", str(error))


def labels_are_comparable(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Emotions need a neutral counterpart; an emotion without lexicon needs its spans written out."""
    labels = Counter(prompt.emotion for prompt in prompts)
    if NEUTRAL not in labels and any(label in forms for label in labels):
        yield Finding(None, "emotion", f"no text is labelled {NEUTRAL!r}, which emotions are compared with")
    for label in labels:
        if (
            label != NEUTRAL
            and label not in forms
            and any(p.emotion == label and p.stratum == "implicit" for p in prompts)
        ):
            message = (
                f"there is no lexicon for {label!r}, so that its implicit texts cannot be checked for emotion words"
            )
            yield Finding(None, "emotion", message, "warning")


def language_is_one(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """One language a set; text in another script than the language's is reported (lexicons are English)."""
    languages = Counter(prompt.language for prompt in prompts)
    if len(languages) > 1:
        usual = languages.most_common(1)[0][0]
        for index, prompt in enumerate(prompts):
            if prompt.language != usual:
                yield Finding(index, "language", f"{prompt.language!r} in a set whose other texts are {usual!r}")
    if set(languages) - {"en"}:
        yield Finding(None, "language", "the emotion lexicons are English: spans must be written out", "warning")
    for index, prompt in enumerate(prompts):
        letters = [character for character in prompt.text if character.isalpha()]
        foreign = sum(ord(letter) > 0x24F for letter in letters)
        if prompt.language == "en" and letters and foreign > len(letters) / 2:
            yield Finding(index, "language", "is 'en' but most letters of the text are not Latin")


def ids_and_texts_are_unique(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """No id and no text occurs twice; case and spacing do not make a text another one."""
    for field, key in (("id", lambda p: p.id), ("text", lambda p: " ".join(p.text.lower().split()))):
        first: dict[str, Prompt] = {}
        for index, prompt in enumerate(prompts):
            earlier = first.setdefault(key(prompt), prompt)
            if earlier is not prompt:
                yield Finding(index, field, f"the same {field} as {earlier.id!r}")


def splits_are_disjoint(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """All texts of a scenario are in one split, and every label is in every split that the set uses."""
    home: dict[str, Prompt] = {}
    for index, prompt in enumerate(prompts):
        if prompt.scenario is not None:
            first = home.setdefault(prompt.scenario, prompt)
            if first.split != prompt.split:
                message = f"scenario {prompt.scenario!r} is in {prompt.split} here and in {first.split} at {first.id!r}"
                yield Finding(index, "split", message)
    used = {prompt.split for prompt in prompts} - {None}
    labels = dict.fromkeys(prompt.emotion for prompt in prompts)
    if len(labels) > 1 and any(prompt.split is None for prompt in prompts):
        message = "some texts have no split, so that nothing can be held out: `prompts build` gives every text one"
        yield Finding(None, "split", message, "warning")
    for label in labels if len(labels) > 1 else ():
        have = {prompt.split for prompt in prompts if prompt.emotion == label}
        for split in SPLITS:
            if used and split not in have:
                yield Finding(None, "split", f"no text of {label!r} is in {split}: add more scenarios", "warning")


def texts_are_distinct(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """No near-duplicates across scenarios (word 4-grams), and no two splits share a bag of words."""
    texts = [prompt.text for prompt in prompts]

    def related(a: Prompt, b: Prompt) -> bool:
        return a.scenario is not None and a.scenario == b.scenario

    for i, j, similarity in alike_pairs([four_grams(text) for text in texts], FOUR_GRAM_LIMIT):
        if not related(prompts[i], prompts[j]):
            yield Finding(j, "text", f"nearly {prompts[i].id!r} (word 4-grams overlap by {similarity:.2f})")
    for i, j, similarity in alike_pairs([bag(text) for text in texts], BAG_LIMIT):
        if not related(prompts[i], prompts[j]) and prompts[i].split != prompts[j].split:
            message = (
                f"leaks: its words are those of {prompts[i].id!r} in {prompts[i].split} (overlap {similarity:.2f})"
            )
            yield Finding(j, "split", message)


def openings_vary(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """The same first three words in at most 5 % of a label's texts (two texts are always allowed to agree)."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    sizes = Counter(prompt.emotion for prompt in prompts)
    for index, prompt in enumerate(prompts):
        groups[prompt.emotion, tuple(words(prompt.text)[:3])].append(index)
    for (label, opening), members in groups.items():
        if len(members) > max(2, OPENING_SHARE * sizes[label]):
            share = f"{len(members)} of {sizes[label]} texts of {label!r}"
            yield Finding(members[0], "text", f"{share} begin with {' '.join(opening)!r}")


def spans_point_at_words(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Spans are inside the text, apart from each other, on whole words, and cover the lexicon's words."""
    for index, prompt in enumerate(prompts):
        for start, end in prompt.spans:
            if not 0 <= start < end <= len(prompt.text):
                yield Finding(index, "spans", f"[{start}, {end}] is not inside the text")
            elif not _on_whole_words(prompt.text, start, end):
                yield Finding(index, "spans", f"[{start}, {end}] marks {prompt.text[start:end]!r}, not whole words")
        for (_, before), (after, _) in zip(prompt.spans, prompt.spans[1:], strict=False):
            if after < before:
                yield Finding(index, "spans", f"spans overlap or are out of order at character {after}")
        for start, end in find_words(prompt.text, forms.get(prompt.emotion, ())):
            if not any(a <= start and end <= b for a, b in prompt.spans):
                yield Finding(
                    index, "spans", f"{prompt.text[start:end]!r} is a word of {prompt.emotion} without a span"
                )


def strata_are_true(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Explicit text has a span; implicit text has no word of any lexicon; matched neutral text has none either."""
    every_form = tuple(form for words_ in forms.values() for form in words_)
    for index, prompt in enumerate(prompts):
        if prompt.stratum == "explicit" and prompt.emotion != NEUTRAL and not prompt.spans:
            yield Finding(index, "spans", "the text is explicit but no emotion word is marked")
        if prompt.stratum == "implicit" or (prompt.emotion == NEUTRAL and prompt.stratum != "explicit"):
            kind: tuple[str, Level] = ("implicit", "error") if prompt.stratum == "implicit" else (NEUTRAL, "warning")
            for start, end in find_words(prompt.text, every_form):
                message = f"the text is {kind[0]} but holds the emotion word {prompt.text[start:end]!r}"
                yield Finding(index, "text", message, kind[1])


def ends_match(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Matched texts end with the same punctuation."""
    expected: dict[str, Prompt] = {}
    for index, prompt in enumerate(prompts):
        if prompt.scenario is not None:
            first = expected.setdefault(prompt.scenario, prompt)
            here, there = end_mark(prompt.text), end_mark(first.text)
            if here != there:
                message = f"ends with {here!r}, but {first.id!r} of the same scenario with {there!r}"
                yield Finding(index, "end", message)


def surface_is_balanced(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """No label can be told from length and punctuation alone."""
    sizes = Counter(prompt.emotion for prompt in prompts)
    for label, auroc in surface_auroc(prompts).items():
        if auroc > AUROC_LIMIT:
            level: Level = "error" if min(sizes[label], len(prompts) - sizes[label]) >= RELIABLE_TEXTS else "warning"
            message = f"length and punctuation alone tell {label!r} from the rest: AUROC {auroc:.2f} > {AUROC_LIMIT}"
            yield Finding(None, "text", message, level)


def scenarios_pair(prompts: Sequence[Prompt], forms: Forms) -> Iterator[Finding]:
    """Without scenarios the analysis is unpaired, and a scenario holds each label once."""
    if len({prompt.emotion for prompt in prompts}) > 1 and not is_paired(prompts):
        message = "no scenario is written under two labels: the analysis is unpaired, its intervals are wider"
        yield Finding(None, "scenario", message, "warning")
    for index, (earlier, prompt) in _same_cell(prompts):
        message = f"scenario {prompt.scenario!r} already has a text of {prompt.emotion!r} ({earlier.id!r})"
        yield Finding(index, "scenario", message, "warning")


def _same_cell(prompts: Sequence[Prompt]) -> Iterator[tuple[int, tuple[Prompt, Prompt]]]:
    first: dict[tuple[str, str, str], Prompt] = {}
    for index, prompt in enumerate(prompts):
        if prompt.scenario is not None:
            earlier = first.setdefault((prompt.scenario, prompt.emotion, prompt.stratum), prompt)
            if earlier is not prompt:
                yield index, (earlier, prompt)


def _on_whole_words(text: str, start: int, end: int) -> bool:
    marked = text[start:end]
    cut = any(0 < i < len(text) and text[i - 1].isalnum() and text[i].isalnum() for i in (start, end))
    return marked == marked.strip() and not cut


Rule = Callable[[Sequence[Prompt], Forms], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    fields_are_filled,
    labels_are_comparable,
    language_is_one,
    ids_and_texts_are_unique,
    splits_are_disjoint,
    texts_are_distinct,
    openings_vary,
    spans_point_at_words,
    strata_are_true,
    ends_match,
    surface_is_balanced,
    scenarios_pair,
)
