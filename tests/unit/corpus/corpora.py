"""Files of texts, and a run of them with the echo condenser in this process."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neural_condense_core.corpus.batches import condense_rows
from neural_condense_core.corpus.folder import CorpusFolder
from neural_condense_core.corpus.rows import RowReader, plan
from neural_condense_core.corpus.settings import CorpusSettings, InputFile, MadeBy
from neural_condense_core.corpus.shards import make_shard
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.serving.worker import build
from neural_condense_core.wire.codec import SAFETENSORS

MADE_BY = MadeBy("echo", "echo", 64, 4.0, "0123")
SETTINGS = CorpusSettings("echo", max_context_tokens=50, shard_contexts=3)


def write_texts(path: Path, texts, *, ids=None, group=4):
    columns = {"text": pa.array(texts, pa.string())}
    if ids is not None:
        columns["key"] = pa.array(ids)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def worker(settings=SETTINGS):
    spec = WorkerSpec(
        condenser=settings.condenser, checkpoint=None, target_model="echo", ratio=None,
        dtype="auto", device="cpu", threads=1, max_context_tokens=settings.max_context_tokens,
        warm_up_chars=(),
    )  # fmt: skip
    return build(spec)


def condense(source: Path, out: Path, settings=SETTINGS, *, at_most=None, finish=True):
    """Condense, maybe only some shards; return how many were made."""
    made = 0
    reader = RowReader(source, settings)
    loaded = worker(settings)
    with CorpusFolder.opened(out, settings, InputFile.of(source)) as folder:
        chunks = plan(source, settings)
        for chunk in chunks:
            if chunk.index in folder.done or folder.complete or made == at_most:
                continue
            rows = reader.read(chunk)
            outcomes = condense_rows(loaded, rows, SAFETENSORS, 64)
            folder.commit(make_shard(chunk, rows, outcomes, MADE_BY))
            made += 1
        if finish and not folder.complete:
            folder.finish(InputFile.of(source).n_rows)
    reader.close()
    return made
