"""The dashboard's routes: read-only, self-contained, live."""

import asyncio
import re

import httpx
import pytest
from dashboard_records import GOOD, play_round, write_subnet

from neural_condense_core.dashboard import app as app_module
from neural_condense_core.dashboard.app import ASSETS, Watcher, create_app, pages
from neural_condense_core.records import Records


@pytest.fixture
def path(tmp_path):
    write_subnet(tmp_path / "log.sqlite")
    return tmp_path / "log.sqlite"


def ask(path, *targets, method="GET"):
    async def run():
        with Records(path, read_only=True) as records:
            transport = httpx.ASGITransport(create_app(records), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return [await client.request(method, target) for target in targets]

    return asyncio.run(run())


@pytest.mark.parametrize("target", ["/api/overview", "/api/rounds", "/api/rounds/1", "/api/weights",
                                    f"/api/miners/{GOOD}", "/health/live", *ASSETS])  # fmt: skip
def test_every_route_answers(path, target):
    (reply,) = ask(path, target)
    assert reply.status_code == 200
    assert reply.content


def test_only_what_comes_from_here_may_run(path):
    for reply in ask(path, *ASSETS, "/api/overview"):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_page_names_no_address_outside():
    for name, _ in ASSETS.values():
        text = (pages() / name).read_text()
        found = re.findall(r"https?://[^\s\"'`)]+", text)
        assert set(found) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text


def test_nothing_can_be_changed(path):
    for reply in ask(path, "/", "/api/overview", "/api/rounds/1", method="POST"):
        assert reply.status_code == 405


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/api/miners/5Nobody", "unknown_miner"),
        ("/api/rounds/77", "unknown_round"),
        ("/api/rounds/x", "not_found"),
        ("/nothing", "not_found"),
    ],
)
def test_errors_have_the_one_body(path, target, code):
    (reply,) = ask(path, target)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == code


def test_a_change_by_another_process_is_seen(path, monkeypatch):
    monkeypatch.setattr(app_module, "POLL_S", 0.01)

    async def run():
        with Records(path, read_only=True) as reader, Records(path) as writer:
            watcher = Watcher(reader.version)
            watching = asyncio.create_task(watcher.run())
            await asyncio.sleep(0.1)
            assert await watcher.wait(-1, 5) == 0
            unchanged = await watcher.wait(0, 0.1)
            await asyncio.to_thread(play_round, writer)
            changed = await watcher.wait(0, 5)
            watching.cancel()
            return unchanged, changed

    unchanged, changed = asyncio.run(run())
    assert unchanged == 0
    assert changed >= 1


def test_questions_beyond_the_bound_are_refused(path, monkeypatch):
    monkeypatch.setattr(app_module, "MAX_WAITING", 0)
    (reply,) = ask(path, "/api/overview")
    assert reply.status_code == 429
    assert reply.headers["retry-after"]
