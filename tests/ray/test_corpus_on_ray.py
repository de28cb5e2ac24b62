"""``condense corpus --engine ray`` on two nodes, one of which is killed on the way."""

import json
import subprocess
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from two_nodes import WAIT_S, condense

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.corpus import read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

N_ROWS = 600
LINE = ("--condenser", "slow_echo:SlowEcho", "--shard_contexts", "10", "--max_batch_tokens", "64")


def texts():
    return [f"text {row}: " + "words " * (row % 7 + 1) for row in range(N_ROWS)]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.parquet"
    rows = texts()
    rows[3] = None
    pq.write_table(pa.table({"text": rows}), path)
    return path


def n_parts(out):
    return len(list((out / "parts").glob("*.parquet")))


def run_on(cluster, source, out):
    return condense(
        "corpus", str(source), str(out), *LINE, "--engine", "ray", "--ray_address", cluster.address,
        "--min_replicas", "2", "--max_replicas", "2", "--max_errors", "1", "--json", "-",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def until(condition, process, what):
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s, f"waited too long for {what}"
        time.sleep(0.05)


def test_a_node_and_then_the_run_itself_are_killed_and_nothing_is_lost(cluster, source, tmp_path):
    out = tmp_path / "out"
    first = run_on(cluster, source, out)
    until(lambda: n_parts(out) >= 4, first, "the first shards")
    first.kill()
    first.communicate()
    done = n_parts(out)
    assert 4 <= done < N_ROWS / 10

    second = run_on(cluster, source, out)
    until(lambda: n_parts(out) >= done + 4, second, "more shards")
    cluster.other.kill()
    at_kill = n_parts(out)
    stdout, stderr = second.communicate(timeout=300)
    assert second.returncode == 0, stderr
    assert at_kill < N_ROWS / 10, "the node was killed when all was done"

    summary = json.loads(stdout)
    assert summary["complete"]
    assert summary["n_before"] >= done * 10
    assert (summary["n_condensed"], summary["n_failed"]) == (N_ROWS - 1, 1)
    found = {id_: read_echo(tokens).decode() for id_, tokens in read(out)}
    assert found == {str(row): text for row, text in enumerate(texts()) if row != 3}
    assert pq.read_table(out / "errors.parquet").column("id").to_pylist() == ["3"]
