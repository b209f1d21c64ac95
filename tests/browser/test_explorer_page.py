"""The explorer in a real browser: steering by keyboard, streams, cancelling, another model, results, both widths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.store import Store
from small_study import exploring, run_directions, save_endless, save_profile

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytestmark = pytest.mark.browser

WIDTHS = (1280, 390)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PATIENCE = 60_000
TOKENS = 200
"""Of a long text: the tiny model writes 30 tokens within a few frames of the browser."""

# Called whenever elements are put into the steered text: after every part of the stream that arrives by itself.
WATCH = """then => {
  const text = document.getElementById("tokens-steered");
  window.lengths = [];
  window.coloured = [];
  window.verdicts = [];
  new MutationObserver(() => {
    const tokens = [...text.querySelectorAll(":scope > .token")];
    window.lengths.push(tokens.length);
    window.verdicts.push(document.getElementById("damage-verdict").textContent);
    window.coloured.push(tokens.filter((one) => one.style.backgroundColor).length);
    if (then && tokens.length >= 3) {
      document.getElementById(then).click();
      then = null;
    }
  }).observe(text, { childList: true });
}"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results folder with two models' directions and a run whose texts are hostile; the profile's file."""
    folder = tmp_path_factory.mktemp("explorer")
    results, models = folder / "results", [save_endless(folder / name) for name in ("tiny-one", "tiny-two")]
    profile = save_profile(folder / "small.toml", models[0])
    for model in models:
        run_directions(results, model, profile)
    run = Store(results).run("small", "hostile", "steer", {"params": {"text": [HOSTILE]}})
    with run.open():
        for arm in ("baseline", HOSTILE):
            row = {"step": "texts", "prompt": "text-0", "condition": arm, "sample": 0, "text": f"{arm} {HOSTILE}",
                   "tokens": [1], "stopped": False}  # fmt: skip
            run.append_jsonl("generations.jsonl", [row])
        run.write_json("section.json", {"answer": [], "tables": [
            {"name": "t", "title": HOSTILE, "columns": {HOSTILE: HOSTILE}, "rows": [{HOSTILE: HOSTILE}]}]})  # fmt: skip
        run.finish({"verdicts": [HOSTILE]})
    return results, profile


@pytest.fixture(scope="module")
def address(study: tuple[Path, Path]) -> Iterator[str]:
    with exploring(*study) as (_, found):
        yield found


class Tab:
    """A page of the explorer with its messages, errors and requests."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.messages.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: self.messages.append(f"error: {e}"))
        page.on("request", lambda r: self.requests.append(r.url))
        page.goto(address)
        self.until("document.getElementById('model').options.length > 0")

    def until(self, expression: str) -> None:
        """Wait until an expression is true (the driver's own waiting needs eval, which the page's policy forbids)."""
        for _ in range(PATIENCE // 50):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        told = [self.page.inner_text(part) for part in ("#status", "#error")]
        raise AssertionError(f"never true: {expression}; the page says {told}")

    def tab_to(self, target: str) -> None:
        """Press Tab until the element has the focus, from the start of the page."""
        self.page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.id") == target:
                return
        raise AssertionError(f"Tab never reached #{target}")

    def press(self, target: str, key: str = "Enter") -> None:
        self.tab_to(target)
        self.page.keyboard.press(key)

    def status(self, beginning: str) -> None:
        self.until(f"document.getElementById('status').textContent.startsWith({json.dumps(beginning)})")

    def load(self, place: int | None = None) -> str:
        """Load the model at ``place`` of the list; without one, the first if none is loaded yet."""
        if self.page.locator("#go").is_disabled() or place is not None:
            self.page.locator("#model").select_option(index=place or 0)
            name = self.page.locator("#model option:checked").inner_text().split(" · ")[0]
            self.press("load")
            self.until(f"document.getElementById('status').textContent.startsWith('{name} is ready')")
            self.until("!document.getElementById('go').disabled")
        return str(self.page.inner_text("#status"))

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def clean(self) -> None:
        """Nothing on the console, and nothing asked of any other server."""
        assert self.messages == []
        origin = self.address.split("/", 3)
        assert all(url.startswith("/".join(origin[:3])) for url in self.requests)


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Callable[..., Tab]]:
    contexts = []

    def opened(width: int = 1280, *, other: str | None = None, **options: Any) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        return Tab(context.new_page(), other or address)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_views_are_accessible_and_fit(
    tab: Callable[..., Tab], violations: Callable[[Any], list[Any]], width: int, scheme: str
) -> None:
    seen = tab(width, color_scheme=scheme)
    assert violations(seen.page) == [] and seen.overflow() <= 0
    seen.load()
    seen.press("go")
    seen.status("done")
    seen.press("promoted-show")
    seen.until("document.querySelectorAll('#promoted tbody tr').length === 3")
    assert "at layer 2," in seen.page.inner_text("#promoted caption"), "the last layer, where the head reads best"
    assert violations(seen.page) == [] and seen.overflow() <= 0
    seen.press("to-results")
    seen.page.wait_for_selector("#runs tbody tr")
    seen.page.locator("#runs button").first.click()
    seen.page.wait_for_selector("#run:not([hidden])")
    assert violations(seen.page) == [] and seen.overflow() <= 0
    seen.clean()


@pytest.mark.parametrize("width", WIDTHS)
def test_two_emotions_by_keyboard_alone_and_the_command_in_a_shell_writes_the_same(
    tab: Callable[..., Tab], width: int
) -> None:
    seen = tab(width)
    seen.load()
    seen.press("add-term")
    assert seen.page.locator("#terms li").count() == 2
    first = seen.page.input_value("#expression")
    # The new term's controls are next: emotion, slider, number, layer.
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("ArrowLeft")
    changed = seen.page.input_value("#expression")
    assert first != changed and changed.count("@") == 2
    seen.press("go")
    seen.status("done")
    assert seen.page.evaluate("document.getElementById('both-arms').getBoundingClientRect().top < innerHeight")
    tokens = seen.page.locator("#tokens-steered .token")
    backgrounds = tokens.evaluate_all("all => all.map(t => t.style.backgroundColor)")
    assert all(backgrounds), "every token, the prompt's too, has its readout"
    seen.press("read-layer", "Home")
    assert tokens.evaluate_all("all => all.map(t => t.style.backgroundColor)") != backgrounds
    # Arrow keys go through tokens and name what they hold.
    tokens.first.focus()
    seen.page.keyboard.press("End")
    assert "at layer 0: gratitude" in seen.page.inner_text("#token-detail")
    seen.press("copy")
    command = seen.page.evaluate("navigator.clipboard.readText()")
    assert command == seen.page.inner_text("#command")
    rows = in_a_shell(f"{command} --json --quiet")["results"]
    for arm, row in zip(("baseline", "steered"), rows, strict=True):
        written = seen.page.evaluate(f"document.getElementById('tokens-{arm}').textContent")
        assert written == row["prompt"] + row["text"]
    assert rows[0]["text"] != rows[1]["text"] and seen.overflow() <= 0
    seen.clean()


def in_a_shell(command: str) -> Any:
    """What a command prints as JSON when it is pasted into a shell where the package is installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_expression_and_sliders_say_the_same(tab: Callable[..., Tab]) -> None:
    seen = tab()
    seen.load()
    seen.page.fill("#expression", "0.3 anger @ L1 - 2sd apology")
    seen.until("document.querySelectorAll('#terms li').length === 2")
    numbers = seen.page.locator("#terms input[type=number]").evaluate_all("all => all.map(i => i.value)")
    assert numbers == ["0.3", "-2"]
    assert seen.page.input_value("#expression") == "0.3 anger @ L1 - 2sd apology"
    seen.page.fill("#expression", "0.3 envy")
    seen.until("document.getElementById('error').textContent.includes('envy')")
    assert "→" in seen.page.inner_text("#error")


@pytest.mark.parametrize("width", WIDTHS)
def test_tokens_arrive_one_after_the_other_with_their_readouts(tab: Callable[..., Tab], width: int) -> None:
    seen = tab(width)
    seen.load()
    seen.page.locator("summary").click()
    seen.page.fill("#tokens", str(TOKENS))
    running = "new Set(window.verdicts.filter(v => v.startsWith('So far, repeated 4-grams: '))).size"
    # A browser that gets no processor while a tiny model writes sees the whole text at once: then it watches another.
    for _ in range(3):
        seen.page.evaluate(WATCH, None)
        seen.press("go")
        seen.until("window.lengths.length > 0")
        seen.status("done")
        parts = seen.page.evaluate(f"new Set(window.lengths.filter(n => n > 0 && n < {TOKENS})).size")
        if parts >= 5 and seen.page.evaluate(running):
            break
    # The damage meter runs while the text is written, and names what is outside its limit in the end.
    assert seen.page.evaluate(running) >= 1
    outside = seen.page.locator("#damage td .bad").count()
    assert seen.page.locator("#damage td .good").count() + outside == 4
    verdict = seen.page.inner_text("#damage-verdict")
    assert verdict.startswith("Broken text: " if outside else "Sound")
    lengths, coloured = seen.page.evaluate("[window.lengths, window.coloured]")
    assert lengths == sorted(lengths) and lengths[-1] == TOKENS
    assert len(set(lengths) - {0, TOKENS}) >= 5, "the text does not come all at once"
    # A token is read by the pass that writes the next one, so all but the last are coloured while more come.
    assert all(n - 1 <= c <= n for n, c in zip(lengths, coloured, strict=True) if n)
    seen.clean()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_text_can_be_cancelled_and_what_was_written_stays(tab: Callable[..., Tab], width: int) -> None:
    seen = tab(width)
    seen.load()
    seen.page.locator("summary").click()
    seen.page.fill("#tokens", str(TOKENS))
    # Pressed by the page itself at the third token: the driver's own click may come after the last one.
    # A browser that gets no processor while a tiny model writes sees the whole text at once: then it cancels another.
    for _ in range(3):
        seen.page.evaluate(WATCH, "cancel")
        seen.press("go")
        seen.status("cancelled")
        seen.until("!document.getElementById('go').disabled")
        written = seen.page.locator("#tokens-steered .token").count()
        if written < TOKENS:
            break
    assert 3 <= written < TOKENS
    seen.page.fill("#tokens", "5")
    seen.press("go")
    seen.status("done")
    seen.clean()


def test_a_change_that_is_refused_leaves_the_model_usable(tab: Callable[..., Tab], study: tuple[Path, Path]) -> None:
    seen = tab()
    seen.load(0)
    results, aside = study[0], study[0].with_name("aside")
    results.rename(aside)
    try:
        seen.press("load")
        seen.until("document.getElementById('error').textContent.includes('has no directions of')")
        seen.until("!document.getElementById('go').disabled")
        seen.press("go")
        seen.status("done")
    finally:
        aside.rename(results)
    seen.clean()


def test_before_a_model_is_loaded_the_page_says_what_to_press(
    tab: Callable[..., Tab], study: tuple[Path, Path]
) -> None:
    with exploring(*study) as (_, fresh):
        seen = tab(other=fresh)
        seen.status("Choose a model and press Load")
        seen.clean()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_model_can_be_changed(tab: Callable[..., Tab], width: int) -> None:
    seen = tab(width)
    first = seen.load(0)
    seen.page.fill("#expression", "0.3 anger @ L2 - 0.1 apology @ L0")
    seen.until("document.querySelectorAll('#terms li').length === 2")
    other = seen.load(1)
    assert first != other and "is ready" in other
    assert seen.page.input_value("#expression") == "0.3 anger @ L2 - 0.1 apology @ L0", "terms are kept"
    seen.press("go")
    seen.status("done")
    seen.load(0)
    seen.clean()


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_results_are_text_and_arms_can_be_filtered(
    tab: Callable[..., Tab], violations: Callable[[Any], list[Any]], width: int
) -> None:
    seen = tab(width)
    seen.press("to-results")
    seen.page.wait_for_selector("#runs tbody tr")
    within = "[...document.querySelectorAll('#runs td')].every(c => c.getBoundingClientRect().right <= innerWidth)"
    assert seen.page.evaluate(within), "no column of the list of runs is cut off"
    seen.page.fill("#run-filter", "hostile")
    assert seen.page.locator("#runs tbody tr").count() == 1
    seen.page.locator("#runs button").click()
    seen.page.wait_for_selector("#texts .text")
    assert seen.page.locator("#texts .text").count() == 2
    seen.page.locator("#texts-arm").select_option(index=1)
    seen.until("document.querySelectorAll('#texts .text').length === 1")
    seen.page.locator("#texts-beside").select_option(index=2)
    seen.until("document.querySelectorAll('#texts .pair > div').length === 2")
    assert HOSTILE in seen.page.inner_text("#texts") and HOSTILE in seen.page.inner_text("#run-verdicts")
    assert seen.page.locator("main img").count() == 0
    assert seen.page.title() == "Emotion Circuits: explorer"
    assert seen.overflow() <= 0 and violations(seen.page) == []
    seen.clean()


def test_arms_of_observations_can_be_filtered(tab: Callable[..., Tab]) -> None:
    seen = tab()
    seen.press("to-results")
    seen.page.wait_for_selector("#runs tbody tr")
    seen.page.fill("#run-filter", "directions done")
    seen.page.locator("#runs button").first.click()
    seen.page.wait_for_selector("#arms tbody tr")
    everything = seen.page.locator("#arms tbody tr").count()
    seen.page.fill("#arms-filter", "gratitude baseline")
    assert 0 < seen.page.locator("#arms tbody tr").count() < everything
    seen.page.fill("#arms-filter", "gratitude emotion")
    changes = seen.page.locator("#arms tbody tr").evaluate_all(
        "all => all.map(r => r.children[r.children.length - 2].textContent)"
    )
    assert changes and all(float(change) for change in changes), "how far the arm is from the baseline"
    seen.clean()
