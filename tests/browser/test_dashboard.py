"""Every control of the dashboard, in a real browser over a real process."""

import re
import subprocess
import sys

import pytest
from dashboard_records import GOOD, POOR, play_round, write_subnet

from neural_condense_core.records import FILE_NAME, Records


@pytest.fixture
def dashboard(tmp_path):
    write_subnet(tmp_path / FILE_NAME)
    process = subprocess.Popen(
        [sys.executable, "-m", "neural_condense_core.cli", "dashboard",
         "--state", str(tmp_path), "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = re.search(r"http://\S+", process.stderr.readline()).group()
        yield url, tmp_path / FILE_NAME
    finally:
        process.terminate()
        assert process.wait(30) == 0


def shown(page, path_or_url):
    page.goto(path_or_url)
    page.wait_for_selector("main[aria-busy=false] h1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_leaderboard(dashboard, new_page, picture, poor_contrast, scheme):
    page = new_page(scheme=scheme)
    shown(page, dashboard[0])
    rows = page.locator("table").first.locator("tbody tr")
    assert [rows.nth(index).locator("th").inner_text() for index in range(3)] == ["1", "2", "3"]
    assert "0.500" in rows.first.inner_text()
    assert poor_contrast(page) == []
    picture(page, "dashboard-leaderboard" if scheme == "light" else "dashboard-leaderboard-dark")


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


def test_a_miners_page(dashboard, new_page, picture, poor_contrast):
    page = new_page()
    shown(page, dashboard[0])
    page.get_by_role("link", name="uid 3").first.click()
    page.get_by_role("heading", name="Miner uid 3").wait_for()
    assert GOOD in page.locator("main").inner_text()
    assert page.locator("svg[role=img]").count() >= 4
    page.locator("summary", has_text="Round 2, tier research").click()
    page.get_by_role("region", name="Replies of round 2").wait_for()
    assert poor_contrast(page) == []
    picture(page, "dashboard-miner")


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


def test_what_a_record_holds_is_text_and_never_markup(dashboard, new_page):
    url, path = dashboard
    with Records(path) as records, records.transaction() as connection:
        made = records.open_round(connection, "<img src=x onerror=alert(1)>", 1, 1, 1.0)
        records.close_round(connection, made, 2.0)
    page = new_page()
    shown(page, url + "#/rounds")
    assert page.locator("main img").count() == 0
    assert "<img" in page.locator("main").inner_text()


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


def test_a_phone_scrolls_tables_and_not_the_page(dashboard, new_page, picture, phone):
    page = new_page(viewport=phone, scheme="dark")
    for view in ("#/", f"#/miner/{GOOD}", "#/rounds", "#/weights"):
        shown(page, dashboard[0] + view)
        page.reload()
        page.wait_for_selector("main[aria-busy=false] h1")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown(page, dashboard[0] + "#/")
    picture(page, "dashboard-phone")


def test_an_unknown_miner_is_said_to_be_unknown(dashboard, new_page):
    page = new_page(allow=("404",))
    shown(page, dashboard[0] + "#/miner/5Nobody")
    assert "no round has asked" in page.locator("main").inner_text()
