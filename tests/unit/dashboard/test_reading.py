"""What the pages show is what the records hold."""

import sqlite3

import orjson
import pytest
from dashboard_records import DEAD, GOOD, POOR, write_subnet

from neural_condense_core.constants import TIERS
from neural_condense_core.dashboard import reading
from neural_condense_core.errors import UnknownMinerError, UnknownRoundError
from neural_condense_core.records import Records


@pytest.fixture
def records(tmp_path):
    write_subnet(tmp_path / "log.sqlite")
    with Records(tmp_path / "log.sqlite", read_only=True) as opened:
        yield opened


def test_the_leaderboard_ranks_by_rating_and_names_every_tier(records):
    found = reading.overview(records)
    assert [tier["name"] for tier in found["tiers"]] == list(TIERS)
    research = found["tiers"][0]
    assert [row["hotkey"] for row in research["miners"]] == [GOOD, POOR, DEAD]
    assert [row["rank"] for row in research["miners"]] == [1, 2, 3]
    best = research["miners"][0]
    assert (best["rating"], best["weight"], best["incentive"]) == (0.5, 0.75, 0.7)
    assert best["round"] == 2
    assert research["miners"][1]["codes"] == {"ok": 1, "norm": 1}
    assert research["limits"]["timeout_s"] == TIERS["research"].timeout_s
    assert found["tiers"][1]["miners"] == []
    assert found["last_weights"]["confirmed"]
    assert orjson.dumps(found)


def test_a_miners_page_holds_series_tasks_and_reasons(records):
    found = reading.miner(records, GOOD)
    assert [point["content_recovery"] for point in found["series"]] == [0.4, 0.5]
    assert found["tasks"]["cloze"]["n"] == 4
    assert [point["round"] for point in found["latency"]] == [1, 2]
    assert found["latency"][0]["mean_s"] == pytest.approx(0.3)
    assert found["latency"][0]["slowest_s"] == 0.35
    assert found["weights"] == [[120, 0.75]]
    assert found["incentives"] == [[100, 0.5], [200, 0.7]]
    assert "C = 0.500" in found["why"][0]
    assert " ".join(found["reasons"]["research"]) == found["why"][0]
    assert found["codes"] == {"ok": 4}


def test_rounds_count_how_replies_ended(records):
    found = reading.rounds(records)["rounds"]
    assert [row["id"] for row in found] == [2, 1]
    assert found[0]["codes"] == {"ok": 3, "norm": 1, "timeout": 1}
    one = reading.one_round(records, 1)
    assert [row["hotkey"] for row in one["miners"]] == [GOOD, POOR, DEAD]
    assert "no answer within" in one["miners"][2]["why"]


def test_weights_stand_beside_what_the_chain_pays(records):
    found = reading.weights(records)
    assert [(row["uid"], row["weight"]) for row in found["weights"]] == [(3, 0.75), (4, 0.25)]
    assert found["incentives"] == {GOOD: 0.7, POOR: 0.0}


def test_what_is_not_there_is_said(records):
    with pytest.raises(UnknownMinerError):
        reading.miner(records, "5Nobody")
    with pytest.raises(UnknownRoundError):
        reading.one_round(records, 99)


def test_records_of_before_there_were_incentives_are_read(tmp_path):
    path = tmp_path / "log.sqlite"
    write_subnet(path)
    with sqlite3.connect(path) as raw:
        raw.execute("drop table incentives")
        raw.execute("drop table facts")
    with Records(path, read_only=True) as records:
        assert reading.overview(records)["tiers"][0]["miners"][0]["incentive"] is None
        assert reading.miner(records, GOOD)["incentives"] == []


def test_an_empty_log_is_no_error(tmp_path):
    with Records(tmp_path / "log.sqlite") as records:
        assert reading.overview(records)["tiers"] == []
        assert reading.rounds(records)["rounds"] == []
        assert reading.weights(records)["sets"] == []
