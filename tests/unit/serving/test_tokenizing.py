import asyncio

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from neural_condense_core.errors import OverloadedError
from neural_condense_core.serving import tokenizing
from neural_condense_core.serving.jobs import PROBE_TEXT, Loaded
from neural_condense_core.serving.tokenizing import FrontTokenizer


def words():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "[BOS]": 3}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[BOS] $A", None, [("[BOS]", 3)])
    return tokenizer


def loaded(tokenizer_json, probe_ids=None):
    if probe_ids is None:
        probe_ids = words().encode(PROBE_TEXT, add_special_tokens=False).ids
    return Loaded("x", "t", 4, None, 4.0, tokenizer_json, tuple(probe_ids), {})


def count(context, *adopted):
    async def go():
        front = FrontTokenizer()
        for one in adopted:
            await front.adopt(one)
        try:
            return await front.count(context)
        finally:
            front.close()

    return asyncio.run(go())


def test_without_a_tokenizer_text_passes_on_and_counts_as_bytes():
    counted = count("héllo", loaded(None))
    assert (counted.context, counted.n_tokens) == ("héllo", 6)


def test_ids_have_no_special_tokens_and_are_never_cut():
    tokenizer = words()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    counted = count("a b a b", loaded(tokenizer.to_str()))
    assert counted.context.dtype == np.uint32
    assert counted.context.tolist() == [1, 2, 1, 2]
    assert counted.n_tokens == 4


@pytest.mark.parametrize(
    "bad", [loaded("{"), loaded(words().to_str(), probe_ids=[1, 2])], ids=["unreadable", "other"]
)
def test_a_tokenizer_that_cannot_be_trusted_is_left(bad, caplog):
    assert count("a b", bad).context == "a b"
    assert "worker tokenizes" in caplog.text


def test_how_many_tokenize_at_once_is_bounded(monkeypatch):
    monkeypatch.setattr(tokenizing, "MAX_AT_ONCE", 1)

    async def go():
        front = FrontTokenizer()
        await front.adopt(loaded(words().to_str()))
        first = asyncio.create_task(front.count("a " * 10_000))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await front.count("a " * 10_000)
        assert (await front.count("a")).n_tokens == 1, "what is short takes no thread"
        assert (await first).n_tokens == 10_000
        assert (await front.count("a " * 1000)).n_tokens == 1000
        front.close()

    asyncio.run(go())


def test_what_is_short_is_counted_at_once_and_as_in_a_thread():
    async def go():
        front = FrontTokenizer()
        assert front.count_now("x" * 10_000).n_tokens == 10_000, "text needs no thread"
        await front.adopt(loaded(words().to_str()))
        text = "a b " * (tokenizing.INLINE_CHARS // 4)
        assert front.count_now(text + "a") is None
        here, there = front.count_now(text), await front.count(text + "a")
        assert here.context.tolist() == there.context.tolist()[:-1]
        front.close()

    asyncio.run(go())
