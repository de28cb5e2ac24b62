"""Using the playground in a real browser: a text condensed, asked about and looked at.

``test_playground_taking.py`` has what goes in from files and out as files and code.
"""

import re
from importlib.resources import files

import pytest
from backend_process import Server
from playground_page import (
    ASKED,
    COMMAND,
    STEPPED,
    TEXT,
    answer,
    ask,
    condense,
    facts,
    said,
    serve,
)  # fmt: skip

FOCUS = """() => {
  const one = document.activeElement;
  if (one === document.body) return [null, 0, true];
  // A field for files is drawn as its label.
  const drawn = one.matches(".unseen") ? one.nextElementSibling : one;
  const [style, box] = [getComputedStyle(drawn), drawn.getBoundingClientRect()];
  const width = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
  return [one.id || one.type || one.textContent.slice(0, 20), width,
          one.matches(".skip") || (box.bottom > 0 && box.top < innerHeight)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_text_is_condensed_and_asked_about_three_ways(play, poor_contrast, scheme):
    page = play(scheme=scheme)
    assert "toy by playground_engine:open_strip" in page.locator("#served").inner_text()
    condense(page)
    assert page.locator("#text-size").inner_text() == "640 characters, 640 B"
    shown = facts(page)
    assert (shown["Tokens before"], shown["Condensed tokens"]) == ("640", "160")
    assert (shown["Ratio"], shown["Text"]) == ("4.00 to 1", "640 B")
    assert re.fullmatch(r"41\.0 kB, 160 . 64", shown["Matrix"])
    assert re.fullmatch(r"\d+\.\d+ s(, from the store)?", shown["Time"])
    widths = [
        page.locator(f"#bars .{name}").bounding_box()["width"] for name in ("before", "after")
    ]
    assert widths[1] / widths[0] == pytest.approx(0.25, rel=0.05)
    ask(page)
    said(page, "done")
    assert answer(page, "none") == f"<user>{ASKED}<assistant>"
    assert answer(page, "condensed") == f"<user>Text:\n{'#' * 160}\n\n{ASKED}<assistant>"
    assert answer(page, "full") == f"<user>Text:\n{TEXT}\n\n{ASKED}<assistant>"
    for key in ("none", "condensed", "full"):
        told = page.locator(f"#answer-{key} .took").inner_text()
        assert re.fullmatch(
            r"[\d,]+ tokens read, [\d,]+ written; first after .* s, all after .* s", told
        )
    page.get_by_role("button", name="Show what was kept").click()
    said(page, "done")
    page.get_by_text("The same as a table").click()
    assert poor_contrast(page) == []


def test_condenser_and_ratio_are_those_of_the_gateway(play):
    page = play()
    assert page.locator("#condenser option").all_inner_texts() == ["echo", STEPPED]
    assert page.get_by_label("Ratio").get_attribute("type") == "number"
    page.get_by_label("Ratio").fill("10")
    condense(page)
    assert facts(page)["Condensed tokens"] == "64"
    assert not page.locator("#stale").is_visible()
    page.get_by_label("Condenser").select_option(STEPPED)
    assert page.locator("#ratio option").all_inner_texts() == ["2 to 1", "8 to 1"]
    assert page.locator("#stale").is_visible()
    page.get_by_label("Ratio").select_option("8")
    page.get_by_role("button", name="Condense", exact=True).click()
    page.locator("#sizes dd", has_text=re.compile("^80$")).wait_for()
    assert facts(page)["Condenser"] == STEPPED
    assert not page.locator("#stale").is_visible()
    page.get_by_label("Paste a text").fill("another text")
    assert page.locator("#stale").is_visible()


def test_answers_stream_and_can_be_stopped(play):
    page = play()
    condense(page)
    ask(page, "SLOW " + "word " * 150)
    page.locator("#answer-none .answer", has_text="SLOW").wait_for()
    assert not answer(page, "none").endswith("<assistant>")  # on its way
    page.locator("#ask-stop").click()
    said(page, "stopped")
    assert page.locator("#answer-none .took").inner_text() == "stopped"
    assert answer(page, "full") == ""
    assert page.evaluate("document.activeElement.id") == "ask"
    ask(page)
    said(page, "done")
    assert answer(page, "full").endswith("<assistant>")


def test_what_goes_wrong_is_said_in_words(play):
    page = play(allow=("400", "500", "503"))
    page.get_by_role("button", name="Condense", exact=True).click()
    page.get_by_text("There is no text yet").wait_for()
    condense(page, TEXT * 7)
    assert page.locator("#condense-fault").inner_text() == ""
    page.get_by_role("button", name="Ask three ways").click()
    page.get_by_text("There is no question yet").wait_for()
    ask(page, longest="100")
    said(page, "done")
    fault = page.locator("#answer-full .fault")
    assert "of which 3900 fit beside the answer" in fault.inner_text()
    assert "#" in answer(page, "condensed")
    ask(page, "RAISE", longest="100")
    said(page, "done")
    assert "the engine failed" in page.locator("#answer-none .fault").inner_text()
    condense(page, "BLIND text")
    page.get_by_role("button", name="Show what was kept").click()
    page.get_by_text("this engine gives no likelihoods").wait_for()
    assert not page.locator("#kept").is_visible()


def test_the_strip_shows_what_was_kept(play):
    page = play()
    condense(page)
    page.get_by_role("button", name="Show what was kept").click()
    said(page, "done")
    sum_ = page.locator("#kept-sum").inner_text()
    assert sum_.startswith("Tokens 1 to 256 of 640.")
    pieces = page.locator("#strip .piece")
    assert pieces.count() == 256
    assert page.locator("#strip").inner_text() == TEXT[:256]
    kinds = {letter: pieces.nth(TEXT.index(letter)).get_attribute("class") for letter in "aex!t"}
    assert kinds == {
        "a": "piece kept", "e": "piece partly", "x": "piece lost", "!": "piece misled",
        "t": "piece easy",
    }  # fmt: skip
    counts = dict(line.rsplit(" ", 1) for line in page.locator("#legend li").all_inner_texts())
    assert counts == {
        "kept": "16", "partly": "48", "lost": "32", "misled": "16", "easy anyway": "144",
    }  # fmt: skip
    page.get_by_text("What the words mean").click()
    assert "a fifth to two thirds are gone" in page.locator("#meanings").inner_text()
    one = page.locator("#kept-one")
    pieces.nth(4).hover()
    told = "“a”: kept; expected at 90.5 % behind the condensed tokens, at 5.0 % without context"
    assert one.inner_text() == told
    page.locator("#strip").focus()
    page.keyboard.press("ArrowRight")
    assert one.inner_text().startswith("“x”: lost")
    assert page.locator("[aria-selected=true]").count() == 1
    page.keyboard.press("End")
    assert page.locator("#strip").get_attribute("aria-activedescendant") == "piece-255"
    page.keyboard.press("Home")
    assert page.locator("#strip").get_attribute("aria-activedescendant") == "piece-0"
    page.get_by_role("button", name="Later").click()
    page.locator("#kept-sum", has_text="Tokens 257 to 512 of 640").wait_for()
    page.get_by_role("button", name="Later").click()
    page.locator("#kept-sum", has_text="Tokens 513 to 640 of 640").wait_for()
    assert page.get_by_role("button", name="Later").is_disabled()
    page.get_by_role("button", name="Earlier").click()
    page.locator("#kept-sum", has_text="Tokens 257 to 512").wait_for()
    page.get_by_text("The same as a table").click()
    rows = page.locator("#kept-table tbody tr")
    rows.first.wait_for()
    assert rows.count() == 256
    assert rows.nth(4).locator("td").all_inner_texts() == ["a", "90.5 %", "5.0 %", "kept"]


def test_a_text_that_was_condensed_before_says_why_it_took_no_time(play):
    page = play()
    for ending in ("", ", from the store"):
        condense(page, "a text of this test alone. " * 9)
        assert re.fullmatch(rf"\d+\.\d+ s{ending}", facts(page)["Time"])


def test_the_focus_is_seen_wherever_the_keyboard_goes(play):
    page = play()
    condense(page)
    page.get_by_role("button", name="Show what was kept").click()
    said(page, "done")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, width, visible = page.evaluate(FOCUS)
        if name in seen:
            break
        if name is None:
            continue
        seen.append(name)
        assert width >= 2, f"{name} has no outline"
        assert visible, f"{name} is out of sight"
    assert {"text", "file", "condenser", "ratio", "condense", "download", "question", "instruction",
            "longest", "ask", "trace", "strip", "copy", "snippet"} <= set(seen)  # fmt: skip


def test_nothing_of_a_text_can_become_markup_even_by_mistake(play):
    page = play(allow=("TrustedHTML", "Trusted Type", "blocked"))
    markup = "(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } })()"
    assert page.evaluate(markup) == "TypeError"


def test_a_gateway_that_is_gone_is_said_to_be_gone(new_page):
    server = serve()
    page = new_page(allow=("ERR_",))
    page.goto(server.url + "/")
    said(page, "ready")
    server.process.terminate()
    server.process.wait(30)
    page.get_by_label("Paste a text").fill(TEXT)
    page.get_by_role("button", name="Condense", exact=True).click()
    page.get_by_text("The gateway cannot be reached.").wait_for()


def test_what_a_text_holds_is_text_and_never_markup(play):
    page = play()
    markup = "<img src=x onerror=alert(1)> "
    condense(page, markup * 5)
    ask(page, markup)
    said(page, "done")
    page.get_by_role("button", name="Show what was kept").click()
    said(page, "done")
    assert page.locator("main img").count() == 0
    assert markup.strip() in answer(page, "full")
    assert "<img" in page.locator("#strip").inner_text()


def test_it_is_used_by_keyboard_alone(play):
    page = play()

    def tab_to(name):
        for _ in range(25):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"{name} is not reached")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to("text")
    page.keyboard.type("the axe exists!")
    tab_to("file")
    tab_to("condense")
    page.keyboard.press("Enter")
    said(page, "done")
    tab_to("question")
    page.keyboard.type("why?")
    page.keyboard.press("Enter")
    said(page, "done")
    assert answer(page, "none") == f"<user>{ASKED}<assistant>"[:48]
    tab_to("trace")
    page.keyboard.press("Space")
    said(page, "done")
    tab_to("strip")
    page.keyboard.press("ArrowRight")
    assert page.locator("#kept-one").inner_text().startswith("“h”")
    tab_to("copy")


def test_a_phone_scrolls_the_code_and_not_the_page(play, phone):
    page = play(viewport=phone, scheme="dark")
    condense(page)
    ask(page)
    said(page, "done")
    page.get_by_role("button", name="Show what was kept").click()
    said(page, "done")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    controls = "button, .button, select, input:not(.unseen, [type=radio])"
    small = page.evaluate(
        f"[...document.querySelectorAll('{controls}')]"
        ".filter((each) => each.offsetParent && each.offsetHeight < 40).map((each) => each.id)"
    )
    assert small == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_model_answers_and_shows_what_was_kept(
    embedded_cache, new_page, picture, poor_contrast, phone
):
    """With KEEP_PICTURES this writes the pictures of docs/playground.md."""
    text = (files("neural_condense_core") / "demo" / "cyclone.txt").read_text(encoding="utf-8")
    server = Server("--also", "truncate-head", command=COMMAND).ready()
    try:
        for name, options in (
            ("playground", {}),
            ("playground-dark", {"scheme": "dark"}),
            ("playground-phone", {"scheme": "dark", "viewport": phone}),
        ):
            page = new_page(**options)
            page.set_default_timeout(300_000)
            page.goto(server.url + "/")
            said(page, "ready")
            condense(page, text)
            assert facts(page)["Condenser"] == "pooled-fast"
            ask(page, "Where did Dorothy and Toto live?", "24")
            said(page, "done")
            assert "Kansas" in answer(page, "full")
            assert "Kansas" in answer(page, "condensed")
            assert "Kansas" not in answer(page, "none")
            page.get_by_role("button", name="Show what was kept").click()
            said(page, "done")
            sum_ = page.locator("#kept-sum").inner_text()
            assert int(re.search(r"(-?\d+) % less", sum_).group(1)) > 5
            page.locator("#strip .piece.kept").first.hover()
            assert poor_contrast(page) == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            picture(page, name)
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0
