"""The gateway over real engines: its answers are those of the model itself.

A tiny random model, then the embedded one; both load torch in two processes, so both are slow.
"""

from __future__ import annotations

import subprocess
import sys

import openai
import pytest
from backend_process import ROOT, Server

from neural_condense_core.client.gateway import GatewayClient
from neural_condense_core.llm.base import as_segment
from neural_condense_core.llm.hf import load_target
from neural_condense_core.llm.prompt import Turn, conversation

COMMAND = ("-m", "neural_condense_core.cli", "gateway")
TEXT = "The harbour was quiet when the two brothers came ashore with the nets. " * 12


@pytest.mark.slow
def test_answers_are_the_models_own_from_text_and_from_condensed_tokens(tiny_llama):
    target = load_target(tiny_llama, dtype="float32")
    server = Server(
        "--target", tiny_llama, "--condenser", "mean-embedding", "--dtype", "float32",
        "--model_name", "tiny", "--floor", "0.01", command=COMMAND,
    ).ready()  # fmt: skip
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            question = [{"role": "user", "content": f"{TEXT}\n\nwhy?"}]
            plain = client.chat.completions.create(
                model="tiny", messages=question, temperature=0, max_tokens=12
            )
            prompt = conversation(target, [Turn("user", (question[0]["content"],))])
            assert plain.choices[0].message.content.strip() == target.generate([prompt], 12)[0]
            brief = client.chat.completions.create(
                model="tiny", messages=question, temperature=0, max_tokens=12,
                extra_body={"condense": {"mode": "always"}},
            )  # fmt: skip
        (part,) = brief.condense["parts"]
        with GatewayClient(server.url) as ours:
            tokens = ours.tokens(part["id"])
        prompt = conversation(target, [Turn("user", (as_segment(tokens), "why?"))])
        assert brief.usage.prompt_tokens == sum(map(len, prompt))
        assert brief.choices[0].message.content.strip() == target.generate([prompt], 12)[0]
        assert 0 <= part["recovery"] <= 1
        assert brief.usage.prompt_tokens_details.cached_tokens == 0
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            again = client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": [
                    {"type": "condensed_context", "id": part["id"]},
                    {"type": "text", "text": "why?"}]}],
                temperature=0, max_tokens=12,
            )  # fmt: skip
        # All that stands up to the condensed part was read for the question before.
        assert again.usage.prompt_tokens_details.cached_tokens == sum(map(len, prompt[:-1])) > 64
        assert again.choices[0].message.content == brief.choices[0].message.content
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_turns_stay_in_the_window_and_turn_two_is_remembered(embedded_cache, tmp_path):
    report = tmp_path / "chat.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agent_chat", "--markdown", str(report)],
        capture_output=True, text=True, timeout=3600, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in report.read_text().splitlines()[2:]
    ]
    by_way = {row[2]: row for row in rows}
    through = by_way["gateway, auto"]
    assert int(through[3].replace(",", "")) + 24 <= 8_192
    assert int(through[4].replace(",", "")) > 0
    assert int(through[5]) == 1
    assert int(by_way["full text, middle dropped"][5]) == 1
