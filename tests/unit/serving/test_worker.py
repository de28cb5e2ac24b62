import logging
from dataclasses import replace

import numpy as np
import orjson
import pytest

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.condensers.options import HurriedCondenser
from neural_condense_core.errors import (
    CheckpointError,
    CodecError,
    ConfigError,
    ContextTooLongError,
    NeuralCondenseError,
    RequestError,
)
from neural_condense_core.serving import shared_bodies, worker
from neural_condense_core.serving.jobs import Answer, Job, WorkerSpec
from neural_condense_core.serving.shared_bodies import SharedBlock
from neural_condense_core.serving.worker import Worker, as_error, default_ratio, load
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import JSON, NPY, SAFETENSORS, negotiate
from neural_condense_core.wire.digest import content_digest

SPEC = WorkerSpec("echo", None, None, None, "auto", "cpu", 1, 100, (16, 64))


class Fragile(EchoCondenser):
    """Raises when it sees an x; remembers the batches it was given."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def condense(self, contexts, ratio, *, queries=None):
        self.batches.append((len(contexts), ratio))
        if any(ord("x") in ids for ids in contexts):
            raise ValueError([bytes(ids).decode() for ids in contexts])
        return super().condense(contexts, ratio)


class Huge(EchoCondenser):
    """Values that float16 cannot hold."""

    def condense(self, contexts, ratio, *, queries=None):
        n = self.n_condensed_tokens(len(contexts[0]), ratio)
        return [CondensedTokens(np.full((n, 4), 1e6, np.float32), "echo", len(contexts[0]))]


def jobs(*contexts, **kwargs):
    return [Job(context, JSON, **kwargs) for context in contexts]


def test_answers_in_order_with_bytes_and_headers():
    first, second = Worker(EchoCondenser(), 4.0, 100).answer([
        Job("abcdefgh", JSON),
        Job(np.array([65, 66], np.uint32), NPY),
    ])
    body = orjson.loads(first.body)
    assert (body["n_context_tokens"], body["n_condensed_tokens"]) == (8, 2)
    assert (first.n_context_tokens, first.n_condensed_tokens) == (8, 2)
    assert first.headers["Content-Type"] == "application/json"
    assert second.body.startswith(b"\x93NUMPY")
    assert second.headers["X-Condense-Shape"] == "1,64"


def test_a_job_that_raises_fails_alone(caplog):
    condenser = Fragile()
    outcomes = Worker(condenser, 4.0, 100).answer(jobs("good", "x-private", "fine"))
    assert [type(outcome) for outcome in outcomes] == [Answer, NeuralCondenseError, Answer]
    assert condenser.batches == [(3, 4.0), (1, 4.0), (1, 4.0), (1, 4.0)]
    assert outcomes[1].status == 500
    assert outcomes[1].detail == {"exception": "ValueError"}
    assert "ValueError" in caplog.text
    assert "private" not in caplog.text + str(outcomes[1].body())


def test_every_fault_of_a_job_is_its_own():
    outcomes = Worker(EchoCondenser(), 4.0, 10).answer([
        Job("fine", JSON),
        Job("much too long a context", JSON),
        Job(np.array([], np.uint32), JSON),
        Job("low", JSON, ratio=0.5),
    ])
    kinds = [Answer, ContextTooLongError, RequestError, RequestError]
    assert [type(outcome) for outcome in outcomes] == kinds
    assert outcomes[1].detail == {"n_context_tokens": 23, "max_context_tokens": 10}


def test_the_limit_itself_is_allowed():
    (outcome,) = Worker(EchoCondenser(), 4.0, 10).answer(jobs("0123456789"))
    assert outcome.n_context_tokens == 10


def test_max_condensed_tokens_raises_the_ratio_and_splits_the_batch():
    condenser = Fragile()
    outcomes = Worker(condenser, 4.0, 100).answer(jobs("a" * 40, "a" * 12, max_condensed_tokens=4))
    assert [outcome.n_condensed_tokens for outcome in outcomes] == [4, 3]
    assert condenser.batches == [(1, 10.0), (1, 4.0)]


def test_a_broken_promise_is_an_error():
    class Liar(EchoCondenser):
        def n_condensed_tokens(self, n_context_tokens, ratio):
            return 1

    (outcome,) = Worker(Liar(), 1.0, 100).answer(jobs("abc"))
    assert isinstance(outcome, Answer)
    assert outcome.n_condensed_tokens == 1

    class Worse(Liar):
        def condense(self, contexts, ratio, *, queries=None):
            return EchoCondenser().condense(contexts, ratio)

    (outcome,) = Worker(Worse(), 1.0, 100).answer(jobs("abc"))
    assert isinstance(outcome, NeuralCondenseError)
    assert outcome.status == 500


def test_values_that_do_not_fit_the_asked_dtype_are_an_error():
    half = negotiate("application/vnd.safetensors; dtype=float16")
    (outcome,) = Worker(Huge(), 4.0, 100).answer([Job("abc", half)])
    assert isinstance(outcome, CodecError)
    (outcome,) = Worker(Huge(), 4.0, 100).answer([Job("abc", SAFETENSORS)])
    assert isinstance(outcome, Answer)


def test_errors_of_the_tree_pass_and_others_are_hidden():
    known = RequestError("say so", {"a": 1})
    assert as_error(known) is known

    class Private(RequestError):
        pass

    assert type(as_error(Private("context"))) is NeuralCondenseError


@pytest.mark.parametrize(
    ("ratios", "asked", "expected"),
    [
        (None, None, 4.0),
        (None, 2.5, 2.5),
        ((1, 2, 4, 8), None, 4.0),
        ((2, 5, 8), None, 5.0),
        ((2, 5, 8), 8.0, 8.0),
    ],
)
def test_default_ratio(ratios, asked, expected):
    condenser = EchoCondenser()
    condenser.ratios = ratios
    assert default_ratio(condenser, asked) == expected


def test_a_ratio_that_is_not_offered_is_a_configuration_error():
    condenser = EchoCondenser()
    condenser.ratios = (2, 8)
    with pytest.raises(ConfigError, match="2, 8"):
        default_ratio(condenser, 4.0)


def test_load_by_name_and_target_model():
    assert load(SPEC).target_model == "smollm2-135m-instruct"
    spec = WorkerSpec("echo", None, "mine", None, "auto", "cpu", 1, 100, ())
    assert load(spec).target_model == "mine"


def checkpoint(folder, method):
    folder.mkdir()
    config = {"name": "own", "method": method, "target_model": "toy", "hidden_size": 64}
    (folder / "config.json").write_bytes(orjson.dumps({**config, "ratios": [4]}))
    return str(folder)


def test_load_a_checkpoint_of_the_condensers_own_method(tmp_path):
    folder = checkpoint(tmp_path / "own", "echo")
    spec = WorkerSpec("echo", folder, None, None, "auto", "cpu", 1, 100, ())
    assert (load(spec).name, load(spec).target_model) == ("own", "toy")


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "own", "echo")
    spec = WorkerSpec("random", folder, None, None, "auto", "cpu", 1, 100, ())
    with pytest.raises(CheckpointError, match="EchoCondenser"):
        load(spec)


class Asking(EchoCondenser):
    query_aware = True


def test_a_condenser_that_needs_queries_is_refused():
    with pytest.raises(ConfigError, match="query"):
        worker.load(WorkerSpec(f"{__name__}:Asking", None, None, None, "auto", "cpu", 1, 1, ()))


class _Pipe:
    def __init__(self):
        self.sent = []

    def send(self, progress):
        self.sent.append(progress)


@pytest.fixture
def loaded(monkeypatch):
    pipe = _Pipe()
    served = Worker(EchoCondenser(), 4.0, 32, "0123456789abcdef")
    monkeypatch.setattr(worker, "_loaded", [(SPEC, served, pipe)])
    return pipe


def test_warm_up_measures_each_length_that_is_served(loaded):
    found = worker.warm_up()
    assert set(found.warm_up_ms) == {16}
    assert found.warm_up_ms[16] > 0
    assert (found.condenser, found.hidden_size, found.ratio) == ("echo", 64, 4.0)
    assert found.revision == "0123456789abcdef"
    assert bytes(found.probe_ids).decode() == worker.PROBE_TEXT
    assert [(p.stage, round(p.done, 3)) for p in loaded.sent] == [
        ("warm-up", 0.8),
        ("warm-up", 0.9),
    ]


def test_a_warm_up_that_fails_is_reported(monkeypatch):
    pipe = _Pipe()
    fragile = Worker(Fragile(), 4.0, 100)
    monkeypatch.setattr(worker, "WARM_UP_TEXT", "x")
    monkeypatch.setattr(worker, "_loaded", [(SPEC, fragile, pipe)])
    with pytest.raises(NeuralCondenseError):
        worker.warm_up()
    assert pipe.sent[-1].error is not None


def test_run_batch_uses_what_was_loaded_and_puts_large_bodies_aside(loaded, monkeypatch):
    block = SharedBlock()
    monkeypatch.setattr(worker, "_blocks", [block])
    monkeypatch.setattr(shared_bodies, "SHARED_FROM_BYTES", 600)
    handover = worker.run_batch(jobs("abcd", "a" * 32, "efgh"))
    assert [outcome.n_condensed_tokens for outcome in handover.outcomes] == [1, 8, 1]
    assert [index for index, _, _ in handover.places] == [1]
    outcomes = block.empty(handover)
    assert orjson.loads(outcomes[1].body)["n_context_tokens"] == 32
    block.close()


def test_unknown_load_errors_keep_their_reason(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    error = worker._load_error(RuntimeError("no such file"))
    assert error.message == "RuntimeError: no such file"
    assert "RuntimeError: no such file" in capsys.readouterr().err


class Hurried(EchoCondenser, HurriedCondenser):
    """Remembers how long it was given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def condense_within(self, contexts, ratio, remaining_s):
        self.given.append((len(contexts), remaining_s))
        return self.condense(contexts, ratio)


def test_a_reply_says_which_weights_made_it_and_what_its_bytes_are():
    (outcome,) = Worker(EchoCondenser(), 4.0, 100, "0123456789abcdef").answer(jobs("abcd"))
    assert outcome.headers["X-Condense-Model-Revision"] == "0123456789abcdef"
    assert outcome.headers["Content-Digest"] == content_digest(outcome.body)


@pytest.mark.parametrize(
    ("condenser", "revision", "cacheable"),
    [("plain", "0123456789abcdef", True), ("plain", "", False), ("hurried", "0123456789", False)],
)
def test_what_may_be_kept(condenser, revision, cacheable):
    served = EchoCondenser() if condenser == "plain" else Hurried()
    (outcome,) = Worker(served, 4.0, 100, revision).answer(jobs("abcd"))
    assert outcome.cacheable is cacheable


def test_what_can_be_hurried_is_told_the_nearest_deadline_of_its_batch():
    condenser = Hurried()
    fine = [Job("abcd", JSON, remaining_s=left_s) for left_s in (9.0, 5.0, None)]
    late = Job("abcd", JSON, ratio=2.0, remaining_s=-1.0)
    outcomes = Worker(condenser, 4.0, 100).answer([*fine, late])
    assert [type(outcome) for outcome in outcomes] == [Answer] * 4
    (three, left_s), rest = condenser.given
    assert three == 3
    assert 4.0 < left_s <= 5.0
    assert rest == (1, 0.0)
    Worker(condenser, 4.0, 100).answer([Job("abcd", JSON)])
    assert condenser.given[-1] == (1, None)


def test_options_of_the_name_wrap_what_is_served(tiny_llama):
    spec = replace(SPEC, condenser="stride+refine=1", target_model=tiny_llama)
    loaded = load(spec)
    assert loaded.name == "stride+refine=1"
    (outcome,) = Worker(loaded, 4.0, 100).answer([Job("a quiet harbour", JSON)])
    assert isinstance(outcome, Answer)


def test_options_wrap_other_weights_too():
    spec = replace(SPEC, condenser="icae+refine=1", checkpoint="pooled-fast")
    with pytest.raises(CheckpointError, match="'icae'"):
        load(spec)
