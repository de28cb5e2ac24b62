"""What is kept, for whom, how long, and what has to go."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from neural_condense_core.errors import ConfigError, OverloadedError, UnknownContextError
from neural_condense_core.gateway.store import About, Bounds, ContextStore, Stored, context_id
from neural_condense_core.tokens import CondensedTokens

ROW = 64  # bytes of a row of 16 float32
BOUNDS = Bounds(memory_bytes=10 * ROW, disk_bytes=20 * ROW, quota_bytes=6 * ROW, ttl_s=100.0)


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def stored(text="a", owner="ann", n_rows=2, pinned=False, at=1_000.0):
    tokens = CondensedTokens(np.full((n_rows, 16), 0.5, np.float32), "toy", 4 * n_rows)
    found = context_id(owner, "toy", "fake", 4.0, text)
    about = About(
        found, owner, "fake", "toy", 4.0, 4 * n_rows, n_rows, 16, tokens.nbytes, 0.5, at, at, pinned
    )
    return Stored(about, tokens)


def test_an_id_is_the_owners_and_the_texts():
    same = context_id("ann", "toy", "fake", 4.0, "a")
    assert same == context_id("ann", "toy", "fake", 4.0, "a")
    others = {
        context_id("bob", "toy", "fake", 4.0, "a"),
        context_id("ann", "toy", "fake", 8.0, "a"),
        context_id("ann", "toy", "fake", 4.0, "b"),
        context_id("ann", "toyf", "ake", 4.0, "a"),
    }
    assert len(others | {same}) == 5


def test_nobody_finds_anothers_context(clock):
    store = ContextStore(BOUNDS, clock=clock)
    kept = store.put(stored())
    assert store.get("ann", kept.about.id).tokens is kept.tokens
    with pytest.raises(UnknownContextError):
        store.get("bob", kept.about.id)
    assert store.list("bob") == []


def test_use_prolongs_and_time_ends(clock):
    store = ContextStore(BOUNDS, clock=clock)
    kept = store.put(stored())
    clock.now += 90
    store.get("ann", kept.about.id)
    clock.now += 90
    assert store.find("ann", kept.about.id) is not None
    clock.now += 101
    assert store.find("ann", kept.about.id) is None
    assert len(store) == 0


def test_a_quota_lets_the_least_recently_used_go(clock):
    store = ContextStore(BOUNDS, clock=clock)
    first, second = store.put(stored("1")), store.put(stored("2"))
    store.put(stored("other", owner="bob"))
    store.get("ann", first.about.id)
    store.put(stored("3", n_rows=4))
    assert store.find("ann", first.about.id) is not None
    assert store.find("ann", second.about.id) is None
    assert len(store.list("bob")) == 1


def test_what_was_asked_to_be_kept_stays_and_the_rest_is_refused(clock):
    store = ContextStore(BOUNDS, clock=clock)
    store.put(stored("1", n_rows=3, pinned=True))
    store.put(stored("2", n_rows=3, pinned=True))
    with pytest.raises(OverloadedError, match="no room"):
        store.put(stored("3"))
    with pytest.raises(OverloadedError):
        ContextStore(BOUNDS, clock=clock).put(stored("4", n_rows=7))


def test_the_bound_of_all_holds_over_owners(clock):
    store = ContextStore(BOUNDS, clock=clock)
    for owner in ("ann", "bob", "eve"):
        store.put(stored("x", owner=owner, n_rows=5))
    assert store.nbytes <= BOUNDS.memory_bytes
    assert store.list("ann") == []


def test_keeping_it_again_does_not_unpin(clock):
    store = ContextStore(BOUNDS, clock=clock)
    store.put(stored(pinned=True))
    assert store.put(stored()).about.is_pinned


def test_delete(clock):
    store = ContextStore(BOUNDS, clock=clock)
    kept = store.put(stored())
    store.delete("ann", kept.about.id)
    with pytest.raises(UnknownContextError):
        store.delete("ann", kept.about.id)


def test_a_folder_outlives_the_process(clock, tmp_path):
    first = ContextStore(BOUNDS, tmp_path, clock=clock)
    kept = first.put(stored(n_rows=3))
    again = ContextStore(BOUNDS, tmp_path, clock=clock)
    found = again.get("ann", kept.about.id)
    assert np.array_equal(found.tokens.embeds, kept.tokens.embeds)
    assert replace(found.about, used_at=0.0) == replace(kept.about, used_at=0.0)
    again.delete("ann", kept.about.id)
    assert list(tmp_path.rglob("ctx_*")) == []


def test_memory_is_a_cache_of_the_folder(clock, tmp_path):
    store = ContextStore(replace(BOUNDS, quota_bytes=20 * ROW), tmp_path, clock=clock)
    kept = [store.put(stored(str(i), n_rows=4)) for i in range(4)]
    assert sum(each.nbytes for each in store._held.values()) <= BOUNDS.memory_bytes
    for each in kept:
        assert store.find("ann", each.about.id) is not None


def test_a_damaged_file_is_absent(clock, tmp_path):
    kept = ContextStore(BOUNDS, tmp_path, clock=clock).put(stored())
    (matrix,) = tmp_path.rglob("*.safetensors")
    matrix.write_bytes(matrix.read_bytes()[:-8])
    store = ContextStore(BOUNDS, tmp_path, clock=clock)
    assert store.find("ann", kept.about.id) is None
    assert list(tmp_path.rglob("ctx_*")) == []


def test_foreign_descriptions_are_not_believed(clock, tmp_path):
    ContextStore(BOUNDS, tmp_path, clock=clock).put(stored())
    (said,) = tmp_path.rglob("*.json")
    said.write_text(said.read_text().replace('"ann"', '"../../etc"'))
    (tmp_path / "ann" / "ctx_x.json").write_text("[1]")
    assert len(ContextStore(BOUNDS, tmp_path, clock=clock)) == 0


def test_an_unusable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use"):
        ContextStore(BOUNDS, tmp_path / "file")


def test_what_an_end_amid_writing_left_is_removed(clock, tmp_path):
    kept = ContextStore(BOUNDS, tmp_path, clock).put(stored())
    folder = tmp_path / "ann"
    lost = [folder / f"ctx_{'0' * 32}.safetensors", folder / f"ctx_{'1' * 32}.json.part"]
    others = [folder / "note.txt", tmp_path / "ctx_readme.json"]
    for path in (*lost, *others):
        path.write_bytes(b"x")
    store = ContextStore(BOUNDS, tmp_path, clock)
    assert len(store) == 1
    assert store.find("ann", kept.about.id) is not None
    assert not any(path.exists() for path in lost)
    assert all(path.exists() for path in others)


def test_the_time_of_the_last_use_outlives_the_process(clock, tmp_path):
    kept = ContextStore(BOUNDS, tmp_path, clock).put(stored())
    clock.now += 90.0
    assert ContextStore(BOUNDS, tmp_path, clock).find("ann", kept.about.id) is not None
    clock.now += 90.0
    assert ContextStore(BOUNDS, tmp_path, clock).find("ann", kept.about.id) is not None
    clock.now += 101.0
    assert ContextStore(BOUNDS, tmp_path, clock).find("ann", kept.about.id) is None


def test_a_clock_that_was_set_back_keeps_nothing_for_ever(clock, tmp_path):
    clock.now = 9e9
    kept = ContextStore(BOUNDS, tmp_path, clock).put(stored())
    clock.now = 1_000.0
    store = ContextStore(BOUNDS, tmp_path, clock)
    assert store.expires_at(store.list("ann")[0]) == 1_100.0
    clock.now += 101.0
    assert store.find("ann", kept.about.id) is None


def test_its_size_can_be_read_while_it_changes(clock):
    bounds = replace(BOUNDS, memory_bytes=400 * ROW, quota_bytes=400 * ROW)
    store = ContextStore(bounds, clock=clock)
    faults = []

    def fill(word):
        try:
            for i in range(300):
                store.put(stored(f"{word}{i}", n_rows=1))
        except Exception as error:  # noqa: BLE001 - told to the test
            faults.append(error)

    threads = [threading.Thread(target=fill, args=(word,)) for word in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert store.nbytes <= 401 * ROW
    assert faults == []
    assert store.nbytes == sum(about.nbytes for about in store.list("ann")) == 400 * ROW
