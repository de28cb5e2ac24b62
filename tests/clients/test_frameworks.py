"""LangChain and LlamaIndex pointed at a gateway; ``make test-clients`` gives them a place to run.

The environments of these tests hold one framework each and not this package: the gateway runs as a
process of the project's own environment, whose python ``GATEWAY_PYTHON`` names.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The harbour was quiet when they came ashore. " * 20
ANSWER = "<user>why?<assistant>"


@pytest.fixture(scope="module")
def url():
    paths = (str(ROOT), str(ROOT / "tests" / "integration"))
    process = subprocess.Popen(
        [os.environ["GATEWAY_PYTHON"], "-m", "neural_condense_core.cli", "gateway", "--port", "0",
         "--engine", "gateway_engine:open_toy", "--target", "toy", "--condenser", "echo",
         "--threshold", "64", "--floor", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "the gateway ended"
            found = re.search(r"(http://\S+/v1):", line)
        wait_ready(found[1])
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def wait_ready(url):
    ready = f"{url.removesuffix('/v1')}/health/ready"
    for _ in range(600):
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(ready).close()  # noqa: S310 - a loopback address of ours
            return
        time.sleep(0.1)
    raise AssertionError("not ready")


def test_langchain_answers_and_streams(url):
    pytest.importorskip("langchain_openai")
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="toy", base_url=url, api_key="none", temperature=0, max_tokens=2_000,
        extra_body={"condense": {"mode": "always"}},
    )  # fmt: skip
    found = model.invoke([HumanMessage("why?")])
    assert found.content == ANSWER
    assert found.usage_metadata["output_tokens"] == len(ANSWER)
    assert "".join(each.content for each in model.stream([HumanMessage("why?")])) == ANSWER
    history = [SystemMessage("be brief"), HumanMessage(TEXT), AIMessage("yes"),
               HumanMessage("why?")]  # fmt: skip
    said = model.invoke(history)
    assert "#" in said.content
    assert said.usage_metadata["input_tokens"] < len(TEXT)


def test_llamaindex_chats_streams_and_completes(url):
    pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="toy", api_base=url, api_key="none", is_chat_model=True, context_window=4_000,
        temperature=0, max_tokens=2_000,
        additional_kwargs={"extra_body": {"condense": {"mode": "always"}}},
    )  # fmt: skip
    assert model.chat([ChatMessage(role="user", content="why?")]).message.content == ANSWER
    *_, last = model.stream_chat([ChatMessage(role="user", content="why?")])
    assert last.message.content == ANSWER
    long = model.chat([ChatMessage(role="user", content=f"{TEXT}\n\nwhy?")])
    assert "#" in long.message.content
    plain = OpenAILike(
        model="toy", api_base=url, api_key="none", is_chat_model=False, context_window=4_000,
        temperature=0, max_tokens=3,
    )  # fmt: skip
    assert plain.complete("once upon").text == "onc"
