"""Rounds as bytes, out and, untrusted, back in."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from neural_condense_core.errors import CodecError, NeuralCondenseError, RequestError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import (
    Challenge,
    ChallengeItem,
    MinerScore,
    ReplyRef,
    ScoreAnswer,
    ScoreLimits,
    ScoreRequest,
    decode_score_request,
    encode_score_request,
    parse_message,
)
from neural_condense_core.wire.tensor_bundle import BundleLimits, read_bundle, write_bundle

LIMITS = ScoreLimits()
MARKER = "the marker in the context"


def request(n: int = 2, **changes: object) -> ScoreRequest:
    item = ChallengeItem(task="fact_recall", question="?", target="x")
    challenges = tuple(
        Challenge(id=f"c{i}", context=MARKER, source="s", document=f"d{i}", items=(item,))
        for i in range(n)
    )
    replies = tuple(ReplyRef(id=f"r{i}", miner="m", challenge=f"c{i}") for i in range(n))
    fields = {"target_model": "t", "seed": 1, "challenges": challenges, "replies": replies}
    return ScoreRequest(**(fields | changes))


def tokens(seed: int = 0, dtype: str = "float32") -> CondensedTokens:
    embeds = np.random.default_rng(seed).standard_normal((3, 4)).astype(dtype)
    return CondensedTokens(embeds, "t", 12)


def body(given: ScoreRequest | None = None, dtype: str | None = None) -> bytes:
    given = given or request()
    return encode_score_request(
        given, {reply.id: tokens(i) for i, reply in enumerate(given.replies)}, dtype
    )


def with_header(**changes: object) -> bytes:
    """A body whose header is changed and whose data are not."""
    whole = body()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length]) | changes
    text = json.dumps({key: value for key, value in header.items() if value is not None}).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_a_round_survives_the_wire(dtype):
    found, tensors = decode_score_request(body(dtype=dtype), LIMITS)
    assert found == request()
    assert list(tensors) == ["r0", "r1"]
    tolerance = {None: 0, "float16": 1e-3, "bfloat16": 1e-2}[dtype]
    np.testing.assert_allclose(tensors["r1"], tokens(1).embeds, rtol=tolerance)
    assert tensors["r0"].dtype == (np.float16 if dtype == "float16" else np.float32)
    assert tensors["r0"].flags.writeable


def test_the_bytes_are_a_safetensors_file():
    found = safetensors.numpy.load(body())
    np.testing.assert_array_equal(found["r0"], tokens(0).embeds)


def test_the_library_s_own_files_are_read():
    metadata = {"request": request().model_dump_json()}
    written = safetensors.numpy.save(
        {"r1": tokens(1).embeds, "r0": tokens(0, "float16").embeds}, metadata
    )
    found, tensors = decode_score_request(written, LIMITS)
    assert found == request()
    np.testing.assert_array_equal(tensors["r0"], tokens(0, "float16").embeds)


def test_the_same_round_gives_the_same_bytes():
    assert body() == body()


def test_the_documented_names_are_on_the_wire():
    sent = json.loads(request().model_dump_json())
    assert set(sent) == {"schema", "target_model", "seed", "challenges", "replies"}
    assert set(sent["challenges"][0]) == {"id", "context", "source", "document", "items"}
    item = sent["challenges"][0]["items"][0]
    assert set(item) == {"task", "question", "target", "bridge", "choices"}
    assert set(sent["replies"][0]) == {"id", "miner", "challenge"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_values_of_one_miner_do_not_refuse_the_round(value):
    matrix = np.full((2, 4), value, np.float32)
    written = write_bundle(
        {"r0": matrix, "r1": np.zeros((0, 4), np.float32)},
        {"request": request().model_dump_json()},
    )
    _, tensors = decode_score_request(written, LIMITS)
    np.testing.assert_array_equal(tensors["r0"], matrix)
    assert tensors["r1"].shape == (0, 4)


def test_tensors_of_other_dimensions_arrive():
    written = write_bundle(
        {"r0": np.zeros((2, 3, 4), np.float16), "r1": np.float32(1).reshape(())},
        {"request": request().model_dump_json()},
    )
    _, tensors = decode_score_request(written, LIMITS)
    assert (tensors["r0"].shape, tensors["r1"].shape) == ((2, 3, 4), ())


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]} | changes


# Trap 24: a short header made the reader allocate gigabytes.
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"r0": entry(shape=[1 << 39, 1 << 39])}, "header"),
        ({"r0": entry(shape=[3, -4])}, "header"),
        ({"r0": entry(shape=[3, 4.0])}, "header"),
        ({"r0": entry(shape=[True, 12])}, "header"),
        ({"r0": entry(shape=[1] * 100)}, "header"),
        ({"r0": entry(data_offsets=[0, 44])}, "header"),
        ({"r0": entry(data_offsets=[48, 96])}, "header"),
        ({"r0": entry(data_offsets=[0])}, "header"),
        ({"r0": entry(dtype="I64")}, "dtype"),
        ({"r0": entry(dtype=["F32"])}, "dtype"),
        ({"r0": entry(extra=1)}, "header"),
        ({"r0": None}, "header"),
        ({"__metadata__": {"request": 1}}, "header"),
        ({"__metadata__": {}}, "metadata"),
    ],
    ids=str,
)
def test_trap_24_a_header_that_lies_is_refused_unread(changes, reason):
    with pytest.raises(CodecError) as refused:
        decode_score_request(with_header(**changes), LIMITS)
    assert refused.value.detail["reason"] == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header"),
        (b"\xff" * 64, "header"),
        ((1000).to_bytes(8, "little") + b"{}", "truncated"),
        ((2).to_bytes(8, "little") + b"[]", "header"),
        ((2).to_bytes(8, "little") + b"{x", "header"),
        (body()[:-1], "truncated"),
        (body() + b"\0", "trailing"),
        (b"\0" * 2000, "header"),
    ],
    ids=range(8),
)
def test_bytes_that_are_no_round_are_refused(data, reason):
    with pytest.raises(CodecError) as refused:
        decode_score_request(data, LIMITS)
    assert refused.value.detail["reason"] == reason


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_damage_is_refused_or_read_and_never_anything_else(data):
    whole = bytearray(body())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            decode_score_request(damaged, LIMITS)
        except NeuralCondenseError as error:
            assert MARKER not in f"{error.message} {error.detail}"  # noqa: PT017


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (ScoreLimits(max_bytes=100), CodecError),
        (ScoreLimits(max_header_bytes=100), CodecError),
        (ScoreLimits(max_replies=1), CodecError),
        (ScoreLimits(max_challenges=1), RequestError),
    ],
)
def test_limits_hold(limits, error):
    with pytest.raises(error):
        decode_score_request(body(), limits)


def test_too_many_tensors_are_refused():
    written = write_bundle({str(i): np.zeros(1, np.float32) for i in range(3)}, {})
    with pytest.raises(CodecError, match="more than 2"):
        read_bundle(written, BundleLimits(10_000, 10_000, 2))


DOUBLE = request().replies[:1] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"replies": DOUBLE},
        {"challenges": request().challenges[:1] * 2},
        {"challenges": request().challenges[:1]},
        {
            "replies": (
                ReplyRef(id="r0", miner="m", challenge="c0"),
                ReplyRef(id="r1", miner="m", challenge="c0"),
            )
        },
        {"replies": (ReplyRef(id="r0", miner="m", challenge="c0"),)},
    ],
    ids=["reply twice", "challenge twice", "no such challenge", "two to one", "tensor left over"],
)
def test_a_round_that_contradicts_itself_is_refused(changes):
    written = write_bundle(
        {"r0": tokens().embeds, "r1": tokens().embeds},
        {"request": request(**changes).model_dump_json()},
    )
    with pytest.raises(RequestError):
        decode_score_request(written, LIMITS)


def test_a_round_needs_a_tensor_a_reply():
    with pytest.raises(RequestError):
        encode_score_request(request(), {"r0": tokens()})


def test_faults_name_fields_and_never_values():
    sent = json.loads(request().model_dump_json())
    sent["challenges"][0]["items"] = MARKER
    sent["seed"] = "1"
    with pytest.raises(RequestError) as refused:
        parse_message(ScoreRequest, json.dumps(sent).encode())
    assert set(refused.value.detail["fields"]) == {"challenges.0.items", "seed"}
    assert MARKER not in f"{refused.value.message} {refused.value.detail}"
    assert refused.value.__cause__ is None


def test_an_answer_survives_the_wire():
    miner = MinerScore(content_recovery=None, recovery=-1.5, n_items=0)
    answer = ScoreAnswer(target_model="t", seconds=1.0, miners={"m": miner})
    assert parse_message(ScoreAnswer, answer.model_dump_json().encode()) == answer
    assert json.loads(answer.model_dump_json())["schema"] == 1


@pytest.mark.parametrize("text", [b"", b"{}", b'{"schema": 2}', b"\xff", b"[1]"])
def test_anything_else_is_no_answer(text):
    with pytest.raises(RequestError):
        parse_message(ScoreAnswer, text)
