"""Every control of the dashboard, in a real browser over a real process."""

import contextlib
import re
import subprocess
import sys
from urllib.parse import quote

import pytest
from dashboard_records import GOOD, POOR, TASK, play_round, write_history, write_subnet

from neural_condense_core.records import FILE_NAME, Records, ReplyRow, ScoreRow


@contextlib.contextmanager
def serving(state):
    process = subprocess.Popen(
        [sys.executable, "-m", "neural_condense_core.cli", "dashboard",
         "--state", str(state), "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield re.search(r"http://\S+", process.stderr.readline()).group(), process
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture
def dashboard(tmp_path):
    write_subnet(tmp_path / FILE_NAME)
    with serving(tmp_path) as (url, _):
        yield url, tmp_path / FILE_NAME


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    write_history(folder / FILE_NAME)
    with serving(folder) as (url, _):
        yield url


CLIPPED = """() => [...document.querySelectorAll("svg text")].filter((text) => {
  const [own, whole] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
  return own.left < whole.left - 1 || own.right > whole.right + 1;
}).map((text) => text.textContent)"""


def shown(page, path_or_url):
    page.goto(path_or_url)
    page.wait_for_selector("main[aria-busy=false] h1")


def until(page, condition, seconds=20):
    """Wait for a condition; the page's own policy forbids the driver to do that inside it."""
    for _ in range(seconds * 10):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{condition} does not come true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_leaderboard(dashboard, new_page, poor_contrast, scheme):
    page = new_page(scheme=scheme)
    shown(page, dashboard[0])
    rows = page.locator("table").first.locator("tbody tr")
    assert [rows.nth(index).locator("th").inner_text() for index in range(3)] == ["1", "2", "3"]
    assert "0.500" in rows.first.inner_text()
    assert poor_contrast(page) == []


def test_columns_sort_and_the_filter_finds(dashboard, new_page):
    page = new_page()
    shown(page, dashboard[0])
    first = page.locator("table").first.locator("tbody tr").first
    page.get_by_role("button", name="miner").first.click()
    page.wait_for_selector("th[aria-sort=ascending] [data-sort=uid]")
    page.get_by_role("button", name="miner").first.click()
    page.wait_for_selector("th[aria-sort=descending] [data-sort=uid]")
    assert "uid 5" in first.inner_text()
    page.get_by_label("Find a miner").fill("4")
    page.locator("tbody tr").nth(1).wait_for(state="detached")
    assert "uid 4" in page.locator("tbody").first.inner_text()
    page.get_by_label("Find a miner").fill("nobody")
    page.get_by_text("No miner of this tier fits.").first.wait_for()


def test_a_miners_page(dashboard, new_page, poor_contrast):
    page = new_page()
    shown(page, dashboard[0])
    page.get_by_role("link", name="uid 3").first.click()
    page.get_by_role("heading", name="Miner uid 3").wait_for()
    assert GOOD in page.locator("main").inner_text()
    assert page.locator("svg[role=img]").count() >= 4
    page.locator("summary", has_text="Round 2, tier research").click()
    page.get_by_role("region", name="Replies of round 2").wait_for()
    assert poor_contrast(page) == []
    why = page.locator(".why-now").inner_text()
    assert "told the model 50 % of what is specific to each text" in why
    assert "What held the score back most: how little of a text is kept." in why
    page.locator("figure", has_text="Incentive").get_by_text("As a table").click()
    cells = page.get_by_role("region", name="Incentive, newest first").locator("tbody tr")
    assert cells.all_inner_texts() == ["200\t0.700", "100\t0.500"]


def test_rounds_one_round_and_weights(dashboard, new_page, poor_contrast):
    page = new_page()
    shown(page, dashboard[0])
    page.get_by_role("link", name="Rounds").click()
    page.get_by_role("heading", name="Rounds").wait_for()
    page.get_by_role("link", name="2", exact=True).click()
    page.get_by_role("heading", name="Round 2, tier research").wait_for()
    assert "no answer within" in page.locator("main").inner_text()
    page.get_by_role("link", name="Weights").click()
    page.get_by_role("heading", name="Weights and incentive").wait_for()
    assert "0.7500" in page.locator("main").inner_text()
    assert poor_contrast(page) == []


def test_a_new_round_appears_without_reload(dashboard, new_page):
    url, path = dashboard
    page = new_page()
    shown(page, url + "#/rounds")
    page.evaluate("window.before = true")
    with Records(path) as records:
        play_round(records)
    page.get_by_role("link", name="3", exact=True).wait_for()
    assert page.evaluate("window.before")


MARKUP = """<img src=x onerror=alert(1)>'"&<script>alert(2)"""


def test_what_a_record_holds_is_text_and_never_markup(tmp_path, new_page):
    """Whatever a miner, a chain or a judge can put into a string."""
    with Records(tmp_path / FILE_NAME) as records:
        with records.transaction() as connection:
            made = records.open_round(connection, MARKUP, 1, 1, 1.0)
            reply = ReplyRow(made, MARKUP, 3, MARKUP, MARKUP, MARKUP, MARKUP, 0.1, 4)
            parts = {"n_items": 1, "tasks": {MARKUP: TASK}}
            score = ScoreRow(made, MARKUP, 3, MARKUP, 0.5, 0.5, MARKUP, 0.4, 0.5, 0.5, parts)
            records.write_round(connection, [reply], [score])
            records.close_round(connection, made, 2.0)
        records.write_weights(9, {3: (MARKUP, 1.0)}, code=MARKUP, message=MARKUP, now=1.0)
    with serving(tmp_path) as (url, _):
        page = new_page(allow=("ERR_",))
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        views = ("#/", f"#/miner/{quote(MARKUP, safe='')}", "#/rounds", "#/round/1", "#/weights")
        for view in views:
            shown(page, url + view)
            page.reload()
            page.wait_for_selector("main[aria-busy=false] h1")
            assert page.locator("main img, main script").count() == 0
            assert "<img" in page.locator("main").inner_text(), view


def test_it_is_used_by_keyboard_alone(dashboard, new_page):
    page = new_page()
    shown(page, dashboard[0])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.tagName, document.activeElement.textContent]"
        )
        if focused[0] == "A" and "uid 4" in focused[1]:
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Miner uid 4").wait_for()
    assert POOR in page.locator("main").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_day_of_a_subnet_is_readable(
    history, new_page, picture, poor_contrast, phone, size, scheme
):
    """With KEEP_PICTURES this writes the pictures of docs/dashboard.md."""
    page = new_page(viewport=phone if size == "phone" else None, scheme=scheme)
    suffix = ("-phone" if size == "phone" else "") + ("-dark" if scheme == "dark" else "")
    slow = f"5{'Odd':x<47}"
    for view, name in (("#/", "leaderboard"), (f"#/miner/{slow}", "miner"), ("#/rounds", None),
                       ("#/round/24", None), ("#/weights", None)):  # fmt: skip
        shown(page, history + view)
        page.reload()
        page.wait_for_selector("main[aria-busy=false] h1")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert poor_contrast(page) == []
        assert page.evaluate(CLIPPED) == []
        if name and (size == "desk" or scheme == "dark"):
            picture(page, f"dashboard-{name}{suffix}")


def test_an_unknown_miner_is_said_to_be_unknown(dashboard, new_page):
    page = new_page(allow=("404",))
    shown(page, dashboard[0] + "#/miner/5Nobody")
    assert "no round has asked" in page.locator("main").inner_text()


def test_the_focus_stays_where_it_is_when_figures_change(dashboard, new_page):
    url, path = dashboard
    page = new_page(viewport={"width": 500, "height": 500})
    shown(page, url)
    for selector in ("a[href*=Poor]", "[data-sort=rating]", "#filter"):
        page.locator(selector).first.focus()
        page.evaluate(
            "document.querySelector('.wide').scrollLeft = 40; window.old = document.activeElement"
        )
        with Records(path) as records:
            play_round(records)
        until(page, "!window.old.isConnected")
        assert page.evaluate(f"document.activeElement.matches('{selector}')"), selector
        assert page.evaluate("document.querySelector('.wide').scrollLeft") == 40
    page.get_by_role("button", name="rating").first.press("Enter")
    page.wait_for_selector("th[aria-sort=descending] [data-sort=rating]:focus")


def test_a_server_that_is_gone_leaves_what_was_shown(tmp_path, new_page):
    write_subnet(tmp_path / FILE_NAME)
    with serving(tmp_path) as (url, process):
        page = new_page(allow=("ERR_",))
        shown(page, url)
        assert page.locator("#status").inner_text() == "live"
        process.terminate()
        page.locator("#status.bad", has_text="not connected").wait_for()
        page.wait_for_timeout(3500)
        assert "uid 3" in page.locator("main").inner_text()


def test_nothing_of_a_text_can_become_markup_even_by_mistake(dashboard, new_page):
    page = new_page(allow=("TrustedHTML", "Trusted Type"))
    shown(page, dashboard[0])
    done = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } })()"
    )
    assert done == "TypeError"


def test_nothing_moves_for_who_wants_no_motion(dashboard, chromium):
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    shown(page, dashboard[0])
    moving = """document.getAnimations().length + [...document.querySelectorAll("*")].filter(
        (each) => getComputedStyle(each).transitionDuration !== "0s").length"""
    assert page.evaluate(moving) == 0
    context.close()


def test_records_without_anything_say_what_will_come(tmp_path, new_page, poor_contrast):
    Records(tmp_path / FILE_NAME).close()
    with serving(tmp_path) as (url, _):
        page = new_page(allow=("ERR_",))
        for view, words in (("", "No validator has run"), ("#/rounds", "No round has been played"),
                            ("#/weights", "No weights have been set")):  # fmt: skip
            shown(page, f"{url}{view}")
            page.reload()
            page.get_by_text(words).wait_for()
            assert poor_contrast(page) == []
