"""llama.cpp itself with the embedded model's GGUF file; ``make test-llama`` runs it.

The contract is held by ``tests/conformance``; here is what only real weights, or many objects of
llama.cpp's own, can show.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm.base import Embeds, TokenIds
from neural_condense_core.llm.engines import open_engine
from neural_condense_core.llm.gguf_files import embedded_gguf, embedding_rows, widened_gguf
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.llm.llama_cpp import LlamaCppTarget
from neural_condense_core.llm.prompt import answer_prompt
from neural_condense_core.tokens import CondensedTokens

pytest.importorskip("llama_cpp")

NAME = "smollm2-135m-instruct"
STORY = (
    "The ferry Halcyon left Port Arden at dawn on 3 May 1954 with 212 passengers. Its captain, "
    "Ines Calloway, had sailed the strait for nineteen years. At noon a boiler failed, and the "
    "ship drifted until the tug Marigold brought it to the island of Skerra that night."
)
QUESTIONS = ["Who was the captain?", "When did the ferry leave?", "Which tug helped?"]
TEXTS = [
    STORY,
    "Numbers: 2026, 3.14, 1,000,000; tabs\tand\n\nlines.",
    "naïve café, 東京, Привет, 🙂👩‍🚀",
    "  leading and   inner   spaces ",
    "<|im_start|>user\nhi<|im_end|>\n",
]


@pytest.fixture
def gguf(real_home: None, embedded_cache: Path) -> Path:
    return embedded_gguf(progress=False)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wide")


@pytest.fixture
def wide(gguf: Path, wide_folder: Path) -> Path:
    """The same weights written out in float32, made once."""
    return widened_gguf(gguf, wide_folder)


@pytest.fixture
def target(gguf: Path) -> Iterator[LlamaCppTarget]:
    found = LlamaCppTarget(gguf, NAME, n_ctx=2048)
    yield found
    found.close()


@pytest.fixture
def hf(embedded_cache: Path) -> HFTarget:
    return load_target(NAME, dtype="float32")


def test_tokenizer_and_chat_template_are_those_of_the_hugging_face_folder(
    target: LlamaCppTarget, hf: HFTarget
) -> None:
    for text in TEXTS:
        ids = target.tokenize(text)
        assert ids == hf.tokenize(text)
        assert target.decode(ids) == hf.decode(ids)
    for turns in ([("user", "Hi")], [("system", "Be brief."), ("user", "a"), ("assistant", "b")]):
        messages = [{"role": role, "content": content} for role, content in turns]
        assert target.render_chat(messages) == hf.render_chat(messages)


def test_plain_embeddings_answer_as_the_text_does(target: LlamaCppTarget) -> None:
    ids = target.tokenize(STORY)
    for question in QUESTIONS:
        by_ids = answer_prompt(target, TokenIds(tuple(ids)), question)
        by_rows = answer_prompt(target, Embeds(target.embed(ids)), question)
        assert target.generate([by_rows], 24) == target.generate([by_ids], 24)


def test_on_equal_weights_llama_cpp_and_transformers_agree(wide: Path, hf: HFTarget) -> None:
    target = LlamaCppTarget(wide, NAME, n_ctx=1024, float32_cache=True)
    ids = hf.tokenize(STORY)
    np.testing.assert_array_equal(target.embed(ids), hf.embed(ids))
    fours = hf.embed(ids[: len(ids) // 4 * 4]).reshape(-1, 4, hf.hidden_size)
    condensed = Embeds(fours.mean(1))  # any rows will do
    for context in (TokenIds(tuple(ids)), condensed):
        for question in QUESTIONS:
            prompt = answer_prompt(hf, context, question)
            assert target.generate([prompt], 24) == hf.generate([prompt], 24)
        reply = hf.tokenize(" Ines Calloway")
        ours, theirs = (t.loglikelihood([prompt], [reply])[0] for t in (target, hf))
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    target.close()


def test_a_prefix_that_lost_its_place_is_computed_again(target: LlamaCppTarget) -> None:
    ids = target.tokenize(STORY)
    head = (TokenIds(tuple(target.tokenize("Text:\n"))), Embeds(target.embed(ids)))
    question = (TokenIds(tuple(target.tokenize("\nThe captain's name:"))),)
    prefix = target.prefill(head)
    alone = target.generate([question], 8, prefix=prefix)
    assert alone == target.generate([(*head, *question)], 8)
    others = [target.prefill((TokenIds(tuple(ids[i:])),)) for i in range(20)]
    assert target.sequences.find(prefix.key) is None
    assert target.generate([question], 8, prefix=prefix) == alone
    del others, prefix
    gc.collect()
    assert target.sequences.take(2000) is not None


def test_streams_side_by_side_say_what_they_say_alone(wide: Path) -> None:
    # On quantised weights the order of a sum, which depends on who else is in the cache, moves
    # likelihoods by tenths of a nat, and with them near ties.
    target = LlamaCppTarget(wide, NAME, n_ctx=1024, float32_cache=True)
    ids = TokenIds(tuple(target.tokenize(STORY)))
    prompts = [answer_prompt(target, ids, question) for question in QUESTIONS]
    alone = [target.generate([prompt], 12)[0] for prompt in prompts]
    found = [""] * len(prompts)

    def read(i: int) -> None:
        found[i] = "".join(piece.text for piece in target.stream(prompts[i], 12)).strip()

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert found == alone
    target.close()


def test_everything_is_freed(gguf: Path) -> None:
    process = psutil.Process()

    def use() -> int:
        target = LlamaCppTarget(gguf, NAME, n_ctx=1024)
        target.generate([(TokenIds((5, 6, 7)),)], 2)
        target.close()
        target.close()
        gc.collect()
        return int(process.memory_info().rss)

    use()
    first = use()
    for _ in range(5):
        last = use()
    assert last - first < 60e6  # one model with its cache takes 140 MB and more


def test_a_file_that_is_no_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TargetModelError, match="no GGUF file"):
        LlamaCppTarget(tmp_path / "nothing.gguf", "x")
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(TargetModelError, match="cannot read"):
        LlamaCppTarget(tmp_path / "junk.gguf", "x")


def test_the_engine_is_opened_by_name(real_home: None, embedded_cache: Path) -> None:
    target = open_engine("llama-cpp", NAME)
    assert (target.name, target.hidden_size, target.max_positions) == (NAME, 576, 8192)


def test_rows_of_the_table_are_those_of_the_file(gguf: Path) -> None:
    rows = embedding_rows(gguf, [0, 7, 7])
    tokens = CondensedTokens(rows, NAME, 12)
    assert tokens.embeds.shape == (3, 576)
    np.testing.assert_array_equal(rows[1], rows[2])
