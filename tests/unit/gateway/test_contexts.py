"""Contexts in the making: shared while somebody waits, ended when nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from gateway_fakes import World, text_of

from neural_condense_core.errors import BackendError
from neural_condense_core.gateway.reader_messages import Opened
from neural_condense_core.tokens import CondensedTokens

LONG = {"role": "user", "content": f"{text_of(200)}\n\nwhy?"}


class SlowSource:
    """Condenses when it is told to."""

    def __init__(self):
        self.begun = self.ended = self.cancelled = 0
        self.go = asyncio.Event()

    async def condense(self, text, ratio, timeout_s):
        self.begun += 1
        try:
            if "bad" in text:
                raise BackendError("refused")
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return CondensedTokens(np.ones((2, 8), np.float32), "toy", 8)


def patched(world):
    slow = SlowSource()
    world.source.condense = slow.condense
    return slow


def asks(world, text="the harbour", owner="ann"):
    work = world.parts.contexts.condensed(owner, text, 4.0, estimates=False)
    return asyncio.create_task(work)


def test_one_giving_up_leaves_the_work_to_the_other(world):
    async def go():
        slow = patched(world)
        first, second = asks(world), asks(world)
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        slow.go.set()
        assert (await second)[1] is False
        assert (slow.begun, slow.ended, slow.cancelled) == (1, 1, 0)

    asyncio.run(go())


def test_when_all_give_up_the_work_ends(world):
    async def go():
        slow = patched(world)
        both = [asks(world), asks(world)]
        await asyncio.sleep(0.05)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert (slow.begun, slow.cancelled) == (1, 1)
        assert world.parts.contexts._making == {}
        slow.go.set()
        assert await asks(world)

    asyncio.run(go())


def test_where_one_part_fails_the_others_end():
    world = World(max_context_tokens=50)
    slow = patched(world)
    parts = [{"type": "text", "text": text_of(40, word)} for word in ("good", "bad", "well")]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "why?"}]}]
    response = world.chat(messages, condense={"mode": "always"})
    assert response.status_code == 502
    assert slow.begun == 3
    assert slow.cancelled == 2


def test_a_context_of_another_model_is_not_read_as_one_of_this(world):
    made = world.ask("POST", "/v1/condense", json={"context": text_of(80)}).json()
    asked = {
        "messages": [{"role": "user", "content": "why?"}],
        "condense": {"contexts": [made["id"]]},
    }
    assert world.chat(**asked).status_code == 200
    world.reading.opened = replace(world.reading.opened, name="other")
    response = world.chat(**asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "condense.contexts"


@pytest.mark.parametrize("n_chars", [1_200, 1_700, 5_000])
def test_texts_are_cut_to_what_a_validator_takes(n_chars):
    world = World()
    world.source.max_chars = 1_000
    world.reading.opened = Opened("toy", 8, 4_000)
    text = text_of(n_chars)[:n_chars]
    response = world.chat(
        [{"role": "user", "content": f"{text}\n\nwhy?"}], condense={"mode": "always"}
    )
    assert response.status_code == 200
    sent = [text for text, _ in world.source.texts]
    assert len(sent) >= 2
    assert max(map(len, sent)) <= 1_000
    assert "".join(sent) == f"{text}\n\n"
    parts = response.json()["condense"]["parts"]
    assert {part["sent_as"] for part in parts} == {"condensed"}
    assert len(parts) == len(sent)


def test_a_piece_below_the_threshold_of_a_part_above_it_is_condensed():
    world = World()
    world.source.max_chars = 300
    text = text_of(24)  # 20 is the threshold, and it is cut
    response = world.chat(
        [{"role": "user", "content": f"{text * 2}\n\nwhy?"}], condense={"mode": "always"}
    )
    assert len(response.json()["condense"]["parts"]) >= 2
