"""The benchmarks measure what they say: their clients against a known server, and one run."""

import asyncio
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from backend_process import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.serving.__main__ import MEASUREMENTS, markdown, write_into
from benchmarks.serving.behaviour import _judged
from benchmarks.serving.figures import Figure, both, median, median_ratio
from benchmarks.serving.load import (
    GONE,
    LATE,
    Arrival,
    Connection,
    Reply,
    Requests,
    closed_loop,
    drain,
    open_loop,
)
from neural_condense_core.errors import ConfigError


class Known:
    """A server that waits, then answers with the number of the context, in two pieces."""

    def __init__(self, wait_s=0.0, status="200 OK"):
        self.wait_s = wait_s
        self.status = status
        self.numbers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length:")[1].split()[0])
                context = json.loads(await reader.readexactly(length))["context"]
                self.numbers.append(int(context[:8]))
                await asyncio.sleep(self.wait_s)
                if self.status == "gone":
                    break
                writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 8\r\n\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(context[:8].encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def play(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 30))


def test_a_reply_is_read_whole_and_timed():
    async def scenario():
        async with Known(wait_s=0.05) as server:
            return await Connection(server.port).ask(Requests().numbered(42))

    reply = play(scenario())
    assert (reply.status, reply.body) == (200, b"00000042")
    assert 0.05 <= reply.seconds < 1


def test_a_connection_that_ends_or_is_refused_is_a_reply_that_is_gone():
    async def scenario():
        async with Known(status="gone") as server:
            ended = await Connection(server.port).ask(Requests().numbered(1))
        return ended, await Connection(server.port).ask(Requests().numbered(2))

    assert [reply.status for reply in play(scenario())] == [GONE, GONE]


def test_a_closed_loop_asks_every_number_once_and_counts_good_replies():
    async def scenario():
        async with Known(wait_s=0.01) as server:
            load = await closed_loop(server.port, Requests(), connections=4, seconds=0.5)
            return load, server.numbers

    load, numbers = play(scenario())
    assert sorted(numbers) == list(range(len(numbers)))
    assert load.statuses == {200: len(numbers)}
    assert load.rate == pytest.approx(len(numbers) / load.seconds)
    assert 40 < load.rate < 400


def test_refusals_do_not_count_as_good():
    async def scenario():
        async with Known(status="429 Too Many") as server:
            requests = [Requests().numbered(i) for i in range(5)]
            return await drain(server.port, requests, connections=2)

    load = play(scenario())
    assert load.statuses == {429: 5}
    assert load.rate == 0


def test_an_open_loop_does_not_wait_for_answers():
    async def scenario():
        async with Known(wait_s=0.3) as server:
            times = np.arange(10) * 0.01
            return await open_loop(server.port, Requests(), times, give_up_s=5)

    arrivals = play(scenario())
    assert [one.reply.status for one in arrivals] == [200] * 10
    # Ten waits of 0.3 s, side by side.
    assert max(one.since_scheduled_s for one in arrivals) < 2


def test_what_is_late_in_an_open_loop_is_given_up():
    async def scenario():
        async with Known(wait_s=5) as server:
            return await open_loop(server.port, Requests(), [0.0], give_up_s=0.1)

    assert play(scenario())[0].reply.status == LATE


def test_goodput_counts_what_came_in_time_only():
    arrivals = [
        *[Arrival(Reply(200, 0.1), 0.5)] * 6,
        *[Arrival(Reply(200, 0.1), 2.5)] * 2,  # later than the deadline
        Arrival(Reply(429, 0.004), 0.004),
        Arrival(Reply(504, 2.0), 2.0),
    ]
    found = _judged(arrivals, peak=3.0, seconds=2.0)
    assert found["share"] == pytest.approx(1.0)
    assert found["late"] == pytest.approx(0.1)
    assert found["reject_p50_ms"] == pytest.approx(4.0)
    assert 0.5 < found["p99_s"] <= 2.5


def test_ratios_are_taken_within_rounds():
    rounds = [{"a": 10.0, "b": 5.0}, {"a": 2.0, "b": 1.0}, {"a": 9.0, "b": 3.0}]
    assert median(rounds, "a") == 9.0
    assert median_ratio(rounds, "a", "b") == 2.0
    assert np.isnan(median(rounds, "c"))
    assert (both(None, None), both(True, None), both(True, False)) == (None, True, False)


def test_the_table_for_a_document_says_what_was_missed():
    figures = [Figure("fast", "<= 1", "0.5", "", True), Figure("slow", "<= 1", "2", "", False)]
    lines = markdown(figures, "a machine", 5).splitlines()
    assert lines[0] == "a machine; medians of 5 rounds."
    assert lines[-2:] == ["| fast | <= 1 | 0.5 |  | yes |", "| slow | <= 1 | 2 |  | **no** |"]


def test_a_document_is_renewed_between_its_marks_and_never_overwritten(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("before\n<!-- serving -->\nold\n<!-- /serving -->\nafter\n")
    write_into(path, "new\n")
    assert path.read_text() == "before\n<!-- serving -->\nnew\n<!-- /serving -->\nafter\n"
    path.write_text("something else")
    with pytest.raises(ConfigError, match="serving"):
        write_into(path, "new\n")
    assert path.read_text() == "something else"


@pytest.mark.slow
def test_a_run_without_peers_ends_with_figures(tmp_path):
    words = ["-m", "benchmarks.serving", "--only", "abandoned,sigterm,kill", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *words, "--json", "-", "--markdown", str(tmp_path / "figures.md")],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert [one["measured"].split(" (")[0] for one in found["figures"][1:2]] == ["0 and 0"]
    assert (tmp_path / "figures.md").read_text().count("\n| ") == 1 + len(found["figures"])


def test_an_unknown_measurement_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--only", "nothing"],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert all(name in done.stderr for name in MEASUREMENTS)
