import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import orjson
import pytest

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.errors import ConfigError
from neural_condense_core.serving import cache as cache_module
from neural_condense_core.serving.cache import CACHE_HEADER, ENTRY_BYTES, AnswerCache, as_hit
from neural_condense_core.serving.jobs import Answer, Job
from neural_condense_core.serving.worker import Worker
from neural_condense_core.wire.codec import (
    JSON,
    JSON_BASE64,
    JSON_LIST,
    MEDIA_TYPES,
    NPY,
    NPY_OCTETS,
    SAFETENSORS,
)
from neural_condense_core.wire.digest import content_digest
from neural_condense_core.wire.messages import CondenseReply

TEXT = "the vault opens at noon"


def answer(body=b"body", **changes):
    return replace(Answer(body, {"Content-Type": "application/x-npy"}, 8, 2), **changes)


def key(number):
    return AnswerCache.key(f"context {number}", None, None, JSON, "r")


def made(reply):
    (outcome,) = Worker(EchoCondenser("toy"), 4.0, 100, "0123456789abcdef").answer([
        Job(TEXT, reply)
    ])
    return outcome


def test_an_answer_is_found_again_and_says_so():
    cache = AnswerCache(100_000)
    assert cache.get(key(1)) is None
    cache.put(key(1), answer())
    found = cache.get(key(1))
    assert (found.body, found.n_context_tokens, found.n_condensed_tokens) == (b"body", 8, 2)
    assert found.headers["X-Condense-Cache"] == "hit"
    assert cache.get(key(2)) is None


@pytest.mark.parametrize("reply", MEDIA_TYPES.values(), ids=lambda each: each.content_type)
def test_a_json_object_says_so_too_and_other_bodies_stay_as_they_are(reply):
    fresh = made(reply)
    hit = as_hit(fresh)
    if reply in {JSON, JSON_BASE64}:
        assert orjson.loads(hit.body) == {**orjson.loads(fresh.body), "cached": True}
    else:
        assert hit.body == fresh.body
    assert hit.headers["Content-Digest"] == content_digest(hit.body)
    assert as_hit(hit).body == hit.body


def test_the_model_of_the_reply_knows_the_mark():
    assert CondenseReply.model_validate_json(as_hit(made(JSON)).body).cached is True
    assert CondenseReply.model_validate_json(made(JSON).body).cached is False


def test_everything_that_changes_the_answer_changes_the_key():
    ids = np.array([65, 66], np.uint32)
    half = replace(JSON, dtype="float16")
    asked = [
        ("AB", None, None, JSON, "r"),
        ("AC", None, None, JSON, "r"),
        (ids, None, None, JSON, "r"),
        (np.array([65], np.uint32), None, None, JSON, "r"),
        ("AB", 4.0, None, JSON, "r"),
        ("AB", 8.0, None, JSON, "r"),
        ("AB", None, 4, JSON, "r"),
        ("AB", 4.0, 4, JSON, "r"),
        ("AB", None, None, half, "r"),
        ("AB", None, None, replace(JSON, dtype="bfloat16"), "r"),
        ("AB", None, None, JSON_LIST, "r"),
        ("AB", None, None, JSON_BASE64, "r"),
        ("AB", None, None, NPY, "r"),
        ("AB", None, None, NPY_OCTETS, "r"),
        ("AB", None, None, SAFETENSORS, "r"),
        ("AB", None, None, JSON, "s"),
    ]
    keys = [AnswerCache.key(*each) for each in asked]
    assert len(set(keys)) == len(keys)
    assert {len(each) for each in keys} == {32}


def test_what_does_not_change_the_answer_does_not_change_the_key():
    assert AnswerCache.key("A", 4, None, JSON, "r") == AnswerCache.key("A", 4.0, None, JSON, "r")
    ids = np.arange(10, dtype=np.uint32)
    spread = np.repeat(ids, 2)[::2]
    assert AnswerCache.key(ids, None, None, JSON, "r") == AnswerCache.key(
        spread, None, None, JSON, "r"
    )
    again = AnswerCache.key("A", None, None, JSON, "r").hex()
    assert again == "b1cfbb2205c3c6dcacbee7f674161a9ecdf5d62b41f60e82241b77856c165e95"


def test_the_least_recently_used_goes_first():
    cache = AnswerCache(3 * (100 + ENTRY_BYTES))
    for number in range(3):
        cache.put(key(number), answer(b"x" * 100))
    assert cache.get(key(0)) is not None
    cache.put(key(3), answer(b"x" * 100))
    assert [cache.get(key(number)) is not None for number in range(4)] == [True, False, True, True]


def test_memory_is_bounded_whatever_comes():
    cache = AnswerCache(50_000)
    sizes = np.random.default_rng(0).integers(0, 60_000, 200)
    for number, size in enumerate(sizes.tolist()):
        cache.put(key(number % 40), answer(bytes(size)))
        held = sum(len(each.body) + ENTRY_BYTES for each in cache._answers.values())
        assert cache.n_bytes == held <= 50_000
    assert len(cache) > 0


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = AnswerCache(0)
    cache.put(key(1), answer(b""))
    assert cache.get(key(1)) is None
    with pytest.raises(ConfigError, match="smaller"):
        AnswerCache(-1)


def test_what_depended_on_the_time_left_is_not_kept(tmp_path):
    cache = AnswerCache(100_000, tmp_path)
    hurried = answer(cacheable=False)

    async def go():
        cache.put(key(1), hurried)
        cache.keep(key(1), hurried)
        return await cache.find(key(1))

    assert asyncio.run(go()) is None
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_outlives_the_process_and_holds_no_text(tmp_path):
    first = AnswerCache(100_000, tmp_path)
    place = AnswerCache.key(TEXT, None, None, JSON, "r")
    fresh = made(JSON)
    first.put(place, fresh)
    second = AnswerCache(100_000, tmp_path)
    found = second.get(place)
    assert json.loads(found.body)["cached"] is True
    assert found.headers == first.get(place).headers
    (file,) = tmp_path.iterdir()
    assert TEXT.encode() not in file.read_bytes()
    assert (file.stat().st_mode & 0o777, len(second)) == (0o600, 1)


def test_a_folder_alone_is_a_cache_too(tmp_path):
    cache = AnswerCache(0, tmp_path)
    cache.put(key(1), answer())
    assert cache.get(key(1)).body == b"body"
    assert len(cache) == 0


def test_from_an_event_loop_the_disk_is_a_threads_affair(tmp_path, monkeypatch):
    cache = AnswerCache(0, tmp_path)
    threads = set()
    for name in ("read", "write"):
        real = getattr(cache.folder, name)

        def noted(*args, real=real):
            threads.add(threading.current_thread() is threading.main_thread())
            return real(*args)

        monkeypatch.setattr(cache.folder, name, noted)

    async def go():
        cache.keep(key(1), answer())
        for _ in range(500):
            if (found := await cache.find(key(1))) is not None:
                return found
            await asyncio.sleep(0.01)
        return None

    assert asyncio.run(go()).body == b"body"
    assert threads == {False}
    cache.close()


def test_a_slow_disk_makes_misses_and_not_waits(tmp_path, monkeypatch):
    cache = AnswerCache(0, tmp_path)
    cache.put(key(1), answer())
    monkeypatch.setattr(cache_module, "FIND_PATIENCE_S", 0.01)
    let_go = threading.Event()
    real = cache.folder.read
    monkeypatch.setattr(cache.folder, "read", lambda k: (let_go.wait(10), real(k))[1])

    async def go():
        slow = await asyncio.gather(*(cache.find(key(1)) for _ in range(100)))
        backlog = cache._backlog
        let_go.set()
        await asyncio.to_thread(cache.close)
        return slow, backlog

    slow, backlog = asyncio.run(go())
    assert slow == [None] * 100
    assert backlog == cache_module.MAX_BACKLOG
    assert asyncio.run(cache.find(key(1))).body == b"body"
    cache.close()


def test_large_bodies_are_kept_by_a_thread_and_small_ones_at_once():
    cache = AnswerCache(10 << 20)

    async def go():
        cache.keep(key(1), answer())
        assert (await cache.find(key(1))).body == b"body"
        cache.keep(key(2), answer(bytes(1 << 20)))
        cache.keep(key(3), answer(bytes(11 << 20)))
        await asyncio.to_thread(cache.close)
        return [await cache.find(key(number)) is not None for number in (2, 3)]

    assert asyncio.run(go()) == [True, False]
    cache.close()


def test_a_small_body_is_marked_when_it_is_asked_for_again():
    async def go():
        cache = AnswerCache()
        cache.keep(key(1), made(JSON))
        before = cache.n_bytes
        first = await cache.find(key(1))
        assert first is not None
        assert first.headers[CACHE_HEADER] == "hit"
        assert first.body.endswith(b',"cached":true}')
        assert await cache.find(key(1)) is first, "marked once"
        assert cache.n_bytes == before + len(b',"cached":true')

    asyncio.run(go())


def test_a_cache_that_fails_is_a_miss(tmp_path, monkeypatch, caplog):
    cache = AnswerCache(0, tmp_path)

    def broken(key):
        raise RuntimeError(TEXT)

    monkeypatch.setattr(cache.folder, "read", broken)
    assert asyncio.run(cache.find(key(1))) is None
    cache.close()
    assert "RuntimeError" in caplog.text
    assert TEXT not in caplog.text
