"""The chain's file: locked, unreadable, read-only, replaced, and clocks that go back."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from dev_world import NETUID, QUICK, START_S, coldkey, hotkey

from neural_condense_core.chain.devchain import store as store_module
from neural_condense_core.chain.devchain.admin import DevChain, make_chain
from neural_condense_core.chain.devchain.store import Store
from neural_condense_core.errors import ChainError, ChainUnavailable, ConfigError


class Locked:
    """Holds the chain's file as a long transaction of another process would."""

    def __init__(self, path):
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def __enter__(self):
        self._db.execute("BEGIN EXCLUSIVE")
        return self

    def __exit__(self, *_):
        self._db.rollback()
        self._db.close()


def quick(world) -> Store:
    return Store(world.path, lambda now: None, clock=world.clock, busy_timeout_s=0.05)


def test_a_locked_file_is_read_and_not_written(world):
    store = quick(world)
    with Locked(world.path):
        assert store.read(lambda now: now.block) == 1
        with pytest.raises(ChainUnavailable, match="locked"):
            store.write(lambda now: now.run("DELETE FROM neuron"))
    assert store.write(lambda now: len(now.neurons(NETUID))) == 1
    store.close()


def test_a_lock_that_passes_is_waited_for(world):
    store = Store(world.path, lambda now: None, clock=world.clock, busy_timeout_s=5)
    lock = Locked(world.path)
    lock.__enter__()
    threading.Timer(0.2, lock.__exit__).start()
    began = time.monotonic()
    store.write(lambda now: None)
    assert 0.1 < time.monotonic() - began < 3
    store.close()


def test_work_that_raises_leaves_nothing(world):
    store = quick(world)

    def half(now):
        now.run("DELETE FROM neuron")
        raise KeyError("midway")

    with pytest.raises(KeyError):
        store.write(half)
    assert store.read(lambda now: len(now.neurons(NETUID))) == 1
    assert store.write(lambda now: now.block) == 1, "the next one is not blocked"
    store.close()


def test_a_missing_file_says_what_to_run(tmp_path):
    store = Store(tmp_path / "none.sqlite", lambda now: None)
    with pytest.raises(ChainUnavailable, match="condense dev init"):
        store.read(lambda now: now.block)
    assert not (tmp_path / "none.sqlite").exists(), "looking makes nothing"


def test_a_file_that_comes_back_is_used_again(world):
    store = quick(world)
    assert store.read(lambda now: now.block) == 1
    hidden = world.path.with_suffix(".away")
    world.path.rename(hidden)
    with pytest.raises(ChainUnavailable):
        store.read(lambda now: now.block)
    hidden.rename(world.path)
    assert store.read(lambda now: now.block) == 1
    store.close()


def test_a_file_that_was_made_anew_is_seen(world):
    store = quick(world)
    world.register("miner")
    assert store.read(lambda now: len(now.neurons(NETUID))) == 2
    make_chain(
        world.path, NETUID, hotkey("owner"), coldkey("owner"), replace=True, clock=world.clock
    )
    assert store.read(lambda now: len(now.neurons(NETUID))) == 1
    store.close()


@pytest.mark.parametrize("garbage", [b"", b"not a database", os.urandom(1 << 16)])
def test_garbage_is_an_error_of_ours_and_the_file_s_return_is_seen(world, garbage):
    world.dev.close()
    kept = world.path.with_suffix(".kept")
    shutil.copy(world.path, kept)
    store = quick(world)
    world.path.unlink()
    world.path.write_bytes(garbage)
    with pytest.raises(ChainError):
        store.read(lambda now: now.block)
    kept.replace(world.path)
    assert store.read(lambda now: now.block) == 1
    store.close()


def test_a_read_only_file_refuses_writes_and_is_read(world, monkeypatch):
    def read_only(path, timeout):
        db = connect(path, timeout)
        db.execute("PRAGMA query_only = ON")
        return db

    connect = store_module._connect
    monkeypatch.setattr(store_module, "_connect", read_only)
    store = quick(world)
    assert store.read(lambda now: now.block) == 1
    with pytest.raises(ChainUnavailable, match="readonly"):
        store.write(lambda now: now.run("DELETE FROM neuron"))
    monkeypatch.undo()
    assert store.write(lambda now: len(now.neurons(NETUID))) == 1
    store.close()


def test_another_database_is_not_taken_for_a_chain(tmp_path):
    path = tmp_path / "other.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE clock (x)")
    db.close()
    with pytest.raises(ChainError, match="no development chain of this version"):
        Store(path, lambda now: None).read(lambda now: now.block)


def test_blocks_follow_the_clock_and_never_go_back(world):
    store = quick(world)
    world.clock.now += 10.9
    assert store.write(lambda now: now.block) == 11
    world.clock.now -= 3600
    assert store.read(lambda now: now.block) == 11
    world.clock.now += 3601
    assert store.read(lambda now: now.block) == 12
    store.close()


def test_making_a_chain_does_not_lose_one(world):
    world.register("miner")
    with pytest.raises(ConfigError, match="--force"):
        make_chain(world.path, NETUID, hotkey("owner"), coldkey("owner"))
    assert len(world.dev.show(NETUID).seats) == 2
    assert [path.name for path in world.path.parent.iterdir() if path.name.startswith(".")] == []


def test_a_chain_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make"):
        make_chain(tmp_path / "file" / "c.sqlite", NETUID, hotkey("owner"), coldkey("owner"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"netuid": 0}, "netuid"),
        ({"netuid": 65536}, "netuid"),
        ({"block_time_s": 0.0}, "block time"),
        ({"block_time_s": float("nan")}, "block time"),
    ],
)
def test_a_chain_s_numbers_are_checked(tmp_path, options, said):
    chosen = {"netuid": NETUID, "block_time_s": 1.0} | options
    netuid = chosen.pop("netuid")
    with pytest.raises(ConfigError, match=said):
        make_chain(tmp_path / "c.sqlite", netuid, hotkey("owner"), coldkey("owner"), **chosen)
    assert not (tmp_path / "c.sqlite").exists()


def test_only_its_user_may_read_a_chain(world):
    assert world.path.stat().st_mode & 0o077 == 0


def test_a_node_meets_an_outage_as_any_other_and_goes_on_after_it(world):
    world.register("miner")
    hidden = world.path.with_suffix(".away")

    async def go():
        chain = world.chain("miner")
        await chain.block()
        with Locked(world.path):
            assert await chain.block() == 1, "reading goes on"
            outcome = await chain.publish("192.0.2.1", 8091)
            assert (outcome.ok, outcome.code) == (False, "chain_unavailable"), outcome
            assert "nothing was sent" in outcome.message
        world.path.rename(hidden)
        began = time.monotonic()
        with pytest.raises(ChainUnavailable, match="no development chain"):
            await chain.block()
        assert (await chain.publish("192.0.2.1", 8091)).code == "chain_unavailable"
        assert time.monotonic() - began < 3 * QUICK.read_s
        hidden.rename(world.path)
        assert (await chain.publish("192.0.2.1", 8091)).ok
        await chain.close()

    asyncio.run(go())
    again = DevChain(world.path, clock=world.clock)
    assert again.show(NETUID).seats[1].endpoint == "192.0.2.1:8091"
    again.close()


WRITER = """
import sys
from pathlib import Path
from neural_condense_core.chain.devchain.admin import DevChain

path, netuid, now, run = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
dev = DevChain(path, clock=lambda: now)
for i in range(10**6):
    dev.register(netuid, f"hotkey-{run}-{i}", f"coldkey-{run}-{i}")
    print(dev.advance(3), flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_chain(world):
    world.dev.close()
    for attempt, steps in enumerate((1, 4, 9)):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, world.path, str(NETUID), str(START_S), str(attempt)],
            stdout=subprocess.PIPE,
        )
        blocks = [int(writer.stdout.readline()) for _ in range(steps)]
        time.sleep(random.random() * 0.02)  # into the middle of some step
        writer.kill()
        writer.communicate()
        db = sqlite3.connect(world.path)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
        found = world.dev.show(NETUID)
        assert [seat.uid for seat in found.seats] == list(range(len(found.seats)))
        assert found.last_epoch == 1 + found.epochs * found.tempo
        assert found.block >= blocks[-1], "what was answered for is kept"
        assert len(found.seats) > steps
    world.register("survivor")
