"""The dashboard's routes: read-only, self-contained, live."""

import asyncio

import httpx
import pytest
from dashboard_records import GOOD, play_round, write_subnet

from neural_condense_core.dashboard import app as app_module
from neural_condense_core.dashboard.app import ASSETS, Routes, Watcher, create_app
from neural_condense_core.errors import OverloadedError
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


def test_so_many_pages_are_live_and_one_that_left_gives_its_place_back(path, monkeypatch):
    monkeypatch.setattr(app_module, "MAX_STREAMS", 1)
    monkeypatch.setattr(app_module, "HEARTBEAT_S", 0.01)
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "headers": []}

    async def gone():
        return {"type": "http.disconnect"}

    async def broken(message):
        raise OSError("the client is gone")

    async def run():
        with Records(path, read_only=True) as records:
            routes = Routes(records)
            request = app_module.Request(scope, gone)
            for _ in range(3):
                response = await routes.events(request)
                with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the server does
                    await response(scope, gone, broken)
            assert routes.n_streams == 0
            routes.n_streams = 1
            with pytest.raises(OverloadedError, match="too many pages"):
                await routes.events(request)
            await routes.close()

    asyncio.run(run())
