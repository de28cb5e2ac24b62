"""Why this score, in words that name the cause."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from subnet_fakes import FAST, TIER, peer, roster

from neural_condense_core.errors import ForbiddenError
from neural_condense_core.records import Records, ReplyRow, ScoreRow
from neural_condense_core.records.explaining import explain, sentence_of
from neural_condense_core.validator.explaining import Explainer

NOW = 1_000_000.0
TIERS = {TIER.name: TIER, FAST.name: FAST}


def score(value=0.3, c=0.4, r=0.5, baseline=0.25, tier=FAST.name, rating=0.35, made=7):
    return ScoreRow(made, "hk", 3, tier, c, r, "truncate-head", baseline, value, rating)


def reply(code="ok", elapsed_s=0.5, challenge="0", made=7):
    return ReplyRow(made, "hk", 3, challenge, "synthetic", "ok", code, elapsed_s, 9)


def test_a_good_round_names_c_the_baseline_and_what_time_cost():
    said = sentence_of(score(), [reply(), reply()], TIERS)
    assert "score S = 0.300, rating now 0.350" in said
    assert "2 of 2 replies" in said
    assert "40 % of what is specific to each text: content recovery C = 0.400" in said
    assert "truncate-head, told less with as many tokens: C = 0.250" in said
    assert "0.50 of 1 s on average: a factor of 0.80" in said
    assert said.endswith("held the score back most: how little of a text is kept.")


@pytest.mark.parametrize(
    ("row", "replies", "said"),
    [
        (score(c=None), [reply(), reply("timeout")], "needs two good replies"),
        (score(c=None), [reply(), reply()], "could not be measured"),
        (score(r=-0.2), [reply(), reply()], "below 0 they mislead the model, so S = 0"),
        (score(0.0, None), [reply("timeout")] * 3, "3 x timeout (no answer within the tier's"),
        (score(0.0, None), [reply("strange")], "1 x strange, which scores 0"),
        (score(c=0.2, baseline=0.2), [reply()] * 2, "truncate-head, told as much with"),
        (score(c=0.2, baseline=0.3), [reply()] * 2, "truncate-head, told more with"),
        (score(c=0.9), [reply(), reply("norm"), reply("norm")], "back most: replies that failed."),
        (score(c=0.9), [reply(elapsed_s=0.9)] * 2, "back most: the time that replies take."),
        (score(c=0.9, r=-0.1), [reply()] * 2, "back most: how little of a text is kept."),
        (score(tier=TIER.name), [reply(), reply()], "0.50 s on average, which costs nothing"),
    ],
)
def test_each_cause_has_its_words(row, replies, said):
    assert said in sentence_of(row, replies, TIERS)


def test_an_explanation_holds_everything(tmp_path):
    with Records(tmp_path / "log.sqlite") as records:
        for value in (0.2, 0.4):
            with records.transaction() as connection:
                made = records.open_round(connection, FAST.name, 1, 100, NOW)
                assert records.close_round(connection, made, NOW)
                records.write_round(
                    connection, [reply(made=made)], [score(value, rating=value, made=made)]
                )
        records.write_weights(9, {3: ("hk", 0.25)}, code="ok", now=NOW)
        found = explain(records, "hk", tiers=TIERS)
    assert (found.uid, found.ratings) == (3, {FAST.name: 0.4})
    assert found.weight["weight"] == 0.25
    assert not found.weight["confirmed"]
    assert [one["score"] for one in found.rounds] == [0.4, 0.2]
    assert found.rounds[0]["replies"][0]["code"] == "ok"
    assert len(found.why) == 2
    assert found.model_validate_json(found.model_dump_json()) == found


def test_who_was_never_asked_is_told_so(tmp_path):
    with Records(tmp_path / "log.sqlite") as records:
        found = explain(records, "hk")
    assert (found.uid, found.rounds, found.weight) == (None, (), None)
    assert "no round has asked" in found.why[0]


def test_only_who_is_on_the_roster_is_told_anything(tmp_path):
    known = [None]
    with (
        Records(tmp_path / "log.sqlite") as records,
        Explainer(records.path, lambda: known[0], TIERS) as explainer,
    ):
        with pytest.raises(ForbiddenError, match="not registered"):
            explainer("hk")
        known[0] = roster(peer(3, "hk"))
        assert explainer("hk").hotkey == "hk"
        with pytest.raises(ForbiddenError, match="not registered"):
            explainer("stranger")


def test_a_question_does_not_wait_for_what_the_validator_writes(tmp_path):
    with (
        Records(tmp_path / "log.sqlite") as records,
        Explainer(records.path, lambda: roster(peer(3, "hk")), TIERS) as explainer,
        ThreadPoolExecutor(1) as pool,
        records.transaction() as connection,
    ):
        records.open_round(connection, FAST.name, 1, 100, NOW)
        assert pool.submit(explainer, "hk").result(timeout=10).hotkey == "hk"
