import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.errors import OverloadedError
from neural_condense_core.serving.admission import (
    BRIEF_S,
    MARGIN,
    MAX_RETRY_AFTER_S,
    Admission,
    BatchBudget,
    Load,
    Pace,
)

IDLE = Load(0, 0, 0.0, 1, 1)


def paced(fixed_s=0.1, per_token_s=0.01, *, max_batch_tokens=100):
    admission = Admission(max_batch_tokens)
    for n_tokens in (10, 50, 100, 30):
        admission.pace.observe(n_tokens, fixed_s + per_token_s * n_tokens)
    return admission


def test_an_unknown_pace_predicts_nothing_and_refuses_nobody():
    admission = Admission(100)
    assert not admission.pace.known
    assert admission.pace.line() == (0.0, 0.0)
    admission.check(Load(9, 900, 5.0, 1, 0), 50, 6.0)


def test_a_line_is_found():
    fixed, per_token = paced().pace.line()
    assert fixed == pytest.approx(0.1)
    assert per_token == pytest.approx(0.01)
    assert paced().pace.seconds(20, 3) == pytest.approx(0.5)


def test_batches_of_one_size_say_nothing_of_a_fixed_part():
    pace = Pace()
    for _ in range(5):
        pace.observe(50, 1.0)
    assert pace.line() == (0.0, pytest.approx(0.02))


def test_neither_part_is_ever_below_zero():
    faster, through = Pace(), Pace()
    for n_tokens, seconds in [(10, 1.0), (100, 0.5)]:
        faster.observe(n_tokens, seconds)
    fixed, per_token = faster.line()
    assert 0.5 < fixed < 1.0
    assert per_token == 0.0
    for n_tokens, seconds in [(10, 0.01), (100, 1.0)]:
        through.observe(n_tokens, seconds)
    fixed, per_token = through.line()
    assert fixed == 0.0
    assert 0.009 < per_token < 0.011


def test_what_is_old_fades():
    pace = Pace()
    for n_tokens in (10, 100) * 50:
        pace.observe(n_tokens, 0.01 * n_tokens)
    for n_tokens in (10, 100) * 50:
        pace.observe(n_tokens, 0.02 * n_tokens)
    assert pace.seconds(100, 1) == pytest.approx(2.0, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 100)), min_size=1, max_size=50))
def test_a_prediction_is_a_number_that_does_not_fall_with_the_load(batches):
    admission = Admission(256)
    for n_tokens, seconds in batches:
        admission.pace.observe(n_tokens, seconds)
    few = admission.predict_s(Load(1, 10, 0.0, 1, 0), 10)
    many = admission.predict_s(Load(9, 900, 0.0, 1, 0), 10)
    assert 0 <= few <= many < math.inf


def test_a_prediction_counts_what_waits_what_runs_and_oneself():
    admission = paced()
    # 0.1 + 0.4 for itself; two batches of 160 tokens ahead; 0.3 s until a worker is free.
    assert admission.predict_s(Load(4, 160, 0.3, 1, 0), 40) == pytest.approx(0.5 + 1.8 + 0.3)
    assert admission.predict_s(Load(4, 160, 0.3, 2, 0), 40) == pytest.approx(0.5 + 2.1 / 2)
    assert admission.predict_s(Load(1, 160, 0.0, 1, 0), 40) == pytest.approx(0.5 + 1.7)


def test_who_would_be_late_is_refused_and_told_when_to_come_back():
    admission = paced()
    load = Load(4, 160, 0.3, 1, 0)
    needed_s = MARGIN * 2.6
    admission.check(load, 40, needed_s + 0.01)
    with pytest.raises(OverloadedError) as caught:
        admission.check(load, 40, needed_s - 1.5)
    assert caught.value.retry_after_s == pytest.approx(1.5)
    assert caught.value.detail["reason"] == "predicted_wait"
    with pytest.raises(OverloadedError) as caught:
        admission.check(Load(10_000, 10**6, 0.0, 1, 0), 40, 1.0)
    assert caught.value.retry_after_s == MAX_RETRY_AFTER_S


def test_a_free_worker_is_never_refused_however_slow_it_was():
    admission = Admission(100)
    admission.pace.observe(10, 1000.0)
    admission.check(IDLE, 10, 0.5)
    with pytest.raises(OverloadedError):
        admission.check(Load(0, 0, 0.0, 1, 0), 10, 0.5)


def test_retry_after_of_a_full_queue():
    admission = paced()
    assert admission.retry_after_s(Load(100, 10_000, 0.0, 1, 0)) == pytest.approx(55.05, rel=0.01)
    assert admission.retry_after_s(IDLE) == 1.0


def test_twice_the_load_still_answers_nearly_as_much_in_time():
    """One worker, one queue in order of arrival, requests at twice what it can do."""
    rng = random.Random(3)
    admission = paced(0.0, 0.01)
    now_s, free_at_s, in_time, late, busy_s = 0.0, 0.0, 0, 0, 0.0
    queue: list[tuple[float, int]] = []
    while now_s < 400.0:
        now_s += rng.expovariate(4.0)  # 50 tokens take 0.5 s: two a second is all there is
        while queue and free_at_s <= now_s:
            came_s, n_tokens = queue.pop(0)
            start_s = max(free_at_s, came_s)
            taken_s = 0.01 * n_tokens * rng.uniform(0.8, 1.2)
            admission.pace.observe(n_tokens, taken_s)
            free_at_s = start_s + taken_s
            busy_s += taken_s
            in_time, late = (
                (in_time + 1, late) if free_at_s - came_s <= 4.0 else (in_time, late + 1)
            )
        n_tokens = rng.randint(10, 90)
        waits = sum(n for _, n in queue)
        load = Load(len(queue), waits, max(0.0, free_at_s - now_s), 1, int(free_at_s <= now_s))
        try:
            admission.check(load, n_tokens, 4.0)
        except OverloadedError:
            continue
        queue.append((now_s, n_tokens))
    assert in_time / 400.0 >= 0.9 * 2.0
    assert late <= 0.01 * in_time


def test_a_budget_is_halved_to_one_token_and_slowly_regained():
    budget = BatchBudget(160)
    budget.shrink(120)
    assert budget.tokens == 60
    budget.shrink(120)
    assert budget.tokens == 30
    for _ in range(9):
        budget.shrink(1)
    assert budget.tokens == 1
    for _ in range(BatchBudget.REGAIN_AFTER):
        assert budget.tokens == 1
        budget.regain()
    assert budget.tokens == 11
    for _ in range(100 * BatchBudget.REGAIN_AFTER):
        budget.regain()
    assert budget.tokens == 160


def test_trouble_starts_the_count_of_good_batches_anew():
    budget = BatchBudget(160)
    budget.shrink(160)
    for _ in range(BatchBudget.REGAIN_AFTER - 1):
        budget.regain()
    budget.shrink(80)
    budget.regain()
    assert budget.tokens == 40


def test_brief_batches_go_beyond_the_budget_up_to_a_bound():
    admission = Admission(256, max_brief_tokens=1000)
    assert admission.max_batch_tokens == 256
    admission.pace.observe(400, BRIEF_S)
    assert admission.max_batch_tokens == 400
    for _ in range(50):
        admission.pace.observe(400, BRIEF_S / 100)
    assert admission.max_batch_tokens == 1000
    for _ in range(200):
        admission.pace.observe(400, 1.0)
    assert admission.max_batch_tokens == 256


def test_where_memory_ran_out_brief_batches_keep_to_the_budget_too():
    admission = Admission(256, max_brief_tokens=1000)
    admission.pace.observe(1000, BRIEF_S / 10)
    admission.budget.shrink(900)
    assert admission.max_batch_tokens == 128
