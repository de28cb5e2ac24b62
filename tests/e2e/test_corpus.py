"""``condense corpus`` by its command line, killed and stopped on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.corpus import read

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 120.0
N_ROWS = 60
KILLER = """
import os, time
from neural_condense_core.condensers.echo import EchoCondenser

class Killer(EchoCondenser):
    name = "killer"
    def condense(self, contexts, ratio, *, queries=None):
        time.sleep(float(os.environ["PAUSE_S"]))
        if any(bytes(ids).startswith(b"poison") for ids in contexts):
            os._exit(9)
        if any(bytes(ids).startswith(b"raise") for ids in contexts):
            raise ValueError(bytes(contexts[0]))
        return super().condense(contexts, ratio, queries=queries)
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"key": [f"k{row}" for row in range(N_ROWS)], "body": texts()}), path)
    return path


def texts(**changes):
    return [changes.get(f"k{row}", f"text {row}") for row in range(N_ROWS)]


def command(tmp_path, source, *args, pause=0.0, **kwargs):
    (tmp_path / "killer.py").write_text(KILLER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
        "OMP_NUM_THREADS": "1",
        "PAUSE_S": str(pause),
    }
    return subprocess.Popen(
        [
            sys.executable, "-m", "neural_condense_core.cli", "corpus", str(source),
            str(tmp_path / "out"), "--condenser", "killer:Killer", "--column", "body",
            "--id_column", "key", "--shard_contexts", "5", "--json", "-", *args,
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


def finished(process):
    stdout, stderr = process.communicate(timeout=WAIT_S)
    return process.returncode, json.loads(stdout) if stdout else None, stderr


def after_shards(process, out, n):
    give_up_s = time.monotonic() + WAIT_S
    while len(list(out.glob("parts/*.parquet"))) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def echoed(out):
    return {id_: read_echo(tokens).decode() for id_, tokens in read(out)}


def test_killed_then_stopped_then_done_with_nothing_lost_or_doubled(tmp_path, source):
    out = tmp_path / "out"
    slow = ("--max_batch_tokens", "16")
    first = command(tmp_path, source, *slow, pause=0.05)
    after_shards(first, out, 2)
    first.kill()
    first.communicate(timeout=WAIT_S)

    second = command(tmp_path, source, *slow, pause=0.05)
    after_shards(second, out, 5)
    second.send_signal(signal.SIGTERM)
    code, summary, stderr = finished(second)
    assert code == 128 + signal.SIGTERM
    assert "run the same line again" in stderr
    assert not summary["complete"]
    assert summary["n_before"] >= 10

    code, summary, stderr = finished(command(tmp_path, source, *slow))
    assert code == 0, stderr
    assert summary["complete"]
    assert summary["n_before"] + summary["n_now"] == summary["n_condensed"] == N_ROWS
    assert echoed(out) == {f"k{row}": text for row, text in enumerate(texts())}


def test_bad_texts_are_errors_of_their_rows_and_never_quoted(tmp_path, source):
    bad = texts(k7="raise hidden", k11="poison", k30="")
    pq.write_table(pa.table({"key": [f"k{row}" for row in range(N_ROWS)], "body": bad}), source)
    code, summary, stderr = finished(command(tmp_path, source))
    assert code == 1, stderr
    assert (summary["complete"], summary["n_condensed"], summary["n_failed"]) == (True, 57, 3)
    errors = pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in errors] == [
        ("k7", "internal"), ("k11", "unavailable"), ("k30", "invalid_request"),
    ]  # fmt: skip
    assert "hidden" not in stderr + json.dumps(errors)
    assert len(echoed(tmp_path / "out")) == 57
    assert finished(command(tmp_path, source, "--max_errors", "3"))[0] == 0


def test_what_cannot_work_is_said_before_anything_is_done(tmp_path, source):
    code, _, stderr = finished(command(tmp_path, source, "--condenser", "nobody"))
    assert code == 2
    assert "nobody" in stderr
    code, _, stderr = finished(command(tmp_path, source, "--ratio", "0.5"))
    assert code == 2, stderr
