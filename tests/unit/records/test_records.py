"""The log: what is written together is kept together, and readers see it from elsewhere."""

import sqlite3

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.records import (
    ABANDONED,
    JUDGED,
    OrganicRow,
    Records,
    ReplyRow,
    RoundRow,
    ScoreRow,
    WeightRow,
    WeightSet,
)

NOW = 1_000_000.0


@pytest.fixture
def records(tmp_path):
    with Records(tmp_path / "log" / "validator.sqlite") as opened:
        yield opened


def begin(records, tier="research", now=NOW):
    with records.transaction() as connection:
        return records.open_round(connection, tier, 1, 100, now)


def finish(records, made, now=NOW + 1, uid=3):
    replies = [ReplyRow(made, "hk", uid, "0", "synthetic", "ok", "ok", 0.5, 12)]
    scores = [ScoreRow(made, "hk", uid, "research", 0.5, 0.4, "truncate-head", 0.2, 0.5, 0.5)]
    with records.transaction() as connection:
        if records.close_round(connection, made, now):
            records.write_round(connection, replies, scores)
            return True
    return False


def test_a_round_reads_back_as_it_was_written(records):
    made = begin(records)
    assert finish(records, made)
    assert records.rounds() == [RoundRow(made, "research", 1, 100, NOW, NOW + 1, JUDGED, "")]
    assert records.replies(round_id=made) == [
        ReplyRow(made, "hk", 3, "0", "synthetic", "ok", "ok", 0.5, 12)
    ]
    assert (
        records.scores("hk")
        == records.latest_scores()
        == [ScoreRow(made, "hk", 3, "research", 0.5, 0.4, "truncate-head", 0.2, 0.5, 0.5, {})]
    )
    assert records.reply_counts() == {"hk": {"ok": 1}}
    assert records.hotkey_of(3) == "hk"
    assert records.hotkey_of(4) is None


def test_a_round_is_not_scored_twice(records):
    made = begin(records)
    assert finish(records, made)
    assert not finish(records, made)
    assert len(records.scores()) == 1


def test_an_abandoned_round_takes_no_scores(records):
    made, other = begin(records), begin(records)
    assert records.abandon_rounds("stopped", NOW, round_id=made) == 1
    assert not finish(records, made)
    assert finish(records, other)
    assert [one.status for one in records.rounds()] == [JUDGED, ABANDONED]
    assert records.abandon_rounds("stopped", NOW) == 0


def test_a_transaction_that_fails_leaves_nothing(records):
    def torn():
        with records.transaction() as connection:
            records.open_round(connection, "research", 1, 100, NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert records.rounds() == []


def test_nan_never_reaches_the_parts(records):
    made = begin(records)
    row = ScoreRow(made, "hk", 1, "research", None, None, None, None, 0.0, 0.0, {"c": float("nan")})

    def write():
        with records.transaction() as connection:
            records.close_round(connection, made, NOW)
            records.write_round(connection, [], [row])

    with pytest.raises(ValueError, match="JSON"):
        write()
    assert records.rounds()[0].status == "open"


def test_weights_are_confirmed_later(records):
    made = records.write_weights(7, {2: ("hk2", 0.75), 1: ("hk1", 0.25)}, code="ok", now=NOW)
    assert records.weight_sets() == [WeightSet(made, 7, NOW, "ok", "", False, False)]
    records.confirm_weights(made)
    assert records.weight_sets() == [WeightSet(made, 7, NOW, "ok", "", True, False)]
    assert records.weights(made) == [
        WeightRow(made, 1, "hk1", 0.25), WeightRow(made, 2, "hk2", 0.75),
    ]  # fmt: skip


def test_organic_rows_read_back(records):
    row = OrganicRow(NOW, "key", "research", "hk", 3, "ok", "ok", 0.5, 900, 12, True)
    records.write_organic(row)
    assert records.organic() == records.organic(hotkey="hk") == [row]
    assert records.organic(hotkey="other") == []


def test_asked_since_counts_rounds_and_users(records):
    finish(records, begin(records))
    records.write_organic(OrganicRow(NOW + 5, "k", "research", "hk", 3, "ok", "ok", 0.1, 9))
    assert records.asked_since(NOW, "synthetic") == [("research", "hk", NOW)]
    assert records.asked_since(NOW, "organic") == [("research", "hk", NOW + 5)]
    assert records.asked_since(NOW + 6, "synthetic") == records.asked_since(NOW + 6, "organic")


def test_pruning_takes_the_old_and_leaves_the_new(records):
    finish(records, begin(records))
    new = begin(records, now=NOW + 100)
    finish(records, new, now=NOW + 101)
    records.write_weights(1, {1: ("hk", 1.0)}, code="ok", now=NOW)
    records.prune(NOW + 50)
    assert [one.id for one in records.rounds()] == [new]
    assert [one.round for one in records.scores()] == [new]
    assert records.weight_sets() == []
    assert records.weights(1) == []


def test_a_reader_sees_what_is_written_and_cannot_write(records):
    made = begin(records)
    with Records(records.path, read_only=True) as reader:
        finish(records, made)
        assert len(reader.scores()) == 1
        with pytest.raises(sqlite3.OperationalError):
            begin(reader)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no records"):
        Records(tmp_path / "none.sqlite", read_only=True)


def test_a_newer_file_is_refused(records):
    records.close()
    connection = sqlite3.connect(records.path)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        Records(records.path)


def test_a_file_that_is_no_database_says_so(tmp_path):
    path = tmp_path / "validator.sqlite"
    path.write_text("not a database" * 100)
    with pytest.raises(ConfigError, match="cannot open"):
        Records(path)


def test_a_miners_question_reads_that_miners_rows_only(records, monkeypatch):
    plans = []

    def select(sql, *values):
        steps = records._connection.execute(f"explain query plan {sql}", values)
        plans.append(" ".join(step[-1] for step in steps))
        return []

    monkeypatch.setattr(records, "select", select)
    records.scores("hk")
    records.replies(round_id=3, hotkey="hk")
    records.organic(hotkey="hk")
    assert len(plans) == 3
    assert all("SEARCH" in plan and "SCAN" not in plan for plan in plans), plans


def test_an_older_file_gets_the_index_that_it_lacks(records):
    with records.transaction() as connection:
        connection.execute("drop index organic_by_hotkey")
    with Records(records.path) as again:
        names = again.select("select name from sqlite_master where type = 'index'")
    assert ("organic_by_hotkey",) in names


def test_what_the_chain_said_is_noted_later(records):
    made = records.write_weights(7, {1: ("hk", 1.0)}, code="unknown", now=NOW)
    records.answer_weights(made, "ok", "in")
    assert records.weight_sets() == [WeightSet(made, 7, NOW, "ok", "in", False, False)]
    assert records.confirm_weights(made) == 7
    assert records.confirm_weights(made + 1) is None


def test_there_is_no_column_for_a_text(records):
    tables = records.select("select sql from sqlite_master where type = 'table'")
    assert not any("context" in sql.lower() for (sql,) in tables if sql)
