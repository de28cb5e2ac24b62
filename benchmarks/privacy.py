"""What of a text can be read out of its condensed tokens, by means that anybody has.

``python benchmarks/privacy.py PROSE.parquet [--condenser pooled-fast] [--ratios 2,4,8] [--limit 16]
[--seed 0] [--json PATH] [--markdown docs/privacy.md]``. The texts are those of ``condense eval
--tasks reconstruction`` with the same file, limit and seed: windows of 128 tokens.

Two readers, neither of them trained for it, so that both are lower bounds of what an attacker gets:

* *nearest*: each row is looked up in the target model's own table of embeddings (cosine), and the
  tokens found are written down in the order of the rows, with a gap where the positions have one.
  It needs no model beyond that table.
* *written*: the target model is asked to repeat the text behind the condensed tokens, greedily.

With ``--markdown`` the table replaces the part between the marks of that page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.evaluation.data import load_prose
from neural_condense_core.evaluation.mentions import Kind, mentions, stands_in
from neural_condense_core.evaluation.probes import Probe
from neural_condense_core.evaluation.tasks import reconstruction_items
from neural_condense_core.evaluation.written import Reply, write
from neural_condense_core.llm.base import Segment, TokenIds, as_segment
from neural_condense_core.llm.hf import HFTarget, load_target
from neural_condense_core.tokens import CondensedTokens

MARKS = ("<!-- reconstructed -->", "<!-- /reconstructed -->")
COLUMNS = (
    ("reader", "reader"),
    ("ratio", "ratio"),
    ("rows_exact", "rows that are a token of the text"),
    ("tokens", "tokens of the text"),
    ("rouge_l", "ROUGE-L"),
    ("numbers", "numbers"),
    ("names", "names"),
)

Row = dict[str, object]


class NearestTokens:
    """The target model's table of embeddings, to look rows up in."""

    def __init__(self, target: HFTarget) -> None:
        self._target = target
        table = target.embed(range(int(target.embedding.num_embeddings)))
        self._table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)

    def ids(self, embeds: NDArray[np.floating]) -> list[int]:
        """Return the id of the token that each row is most like."""
        rows = embeds.astype(np.float32)
        return [int(i) for i in (rows @ self._table.T).argmax(axis=1)]

    def reply(self, tokens: CondensedTokens, probe: Probe) -> Reply:
        """Write down what the rows are most like."""
        ids = self.ids(tokens.embeds)
        decode = self._target.decode
        runs = " ... ".join(decode(run).strip() for run in runs_of(ids, tokens))
        return Reply(runs, decode(probe.target_ids).strip(), tuple(ids), probe.target_ids)


def runs_of(ids: Sequence[int], tokens: CondensedTokens) -> list[list[int]]:
    """Return ids cut where a token of the text is left out, by the positions that came along."""
    if tokens.positions is None:
        return [list(ids)]
    cuts = [0, *(np.flatnonzero(np.diff(tokens.positions) > 1) + 1), len(ids)]
    return [list(ids[start:end]) for start, end in pairwise(cuts)]


def share_given_back(reply: Reply) -> float:
    """Return the share of the text's tokens that were found, wherever they stand."""
    found = Counter(reply.written_ids) & Counter(reply.wanted_ids)
    return found.total() / max(1, len(reply.wanted_ids))


def recalled(replies: Sequence[Reply], kind: Kind) -> str:
    """Return how many numbers or names of all texts stand in the replies."""
    hits = total = 0
    for reply in replies:
        distinct = {mention.text for mention in mentions(reply.wanted, (kind,))}
        hits += sum(stands_in(words, reply.text) for words in distinct)
        total += len(distinct)
    return f"{hits} of {total}"


def row_of(reader: str, ratio: str, replies: Sequence[Reply], rows_exact: str) -> Row:
    """Return a row of the table."""
    return {
        "reader": reader,
        "ratio": ratio,
        "rows_exact": rows_exact,
        "tokens": f"{np.mean([share_given_back(reply) for reply in replies]):.0%}",
        "rouge_l": f"{np.mean([reply.rouge_l for reply in replies]):.2f}",
        "numbers": recalled(replies, "number"),
        "names": recalled(replies, "name"),
    }


def rows_that_are_tokens(
    condensed: Sequence[CondensedTokens], replies: Sequence[Reply], probes: Sequence[Probe]
) -> str:
    """Return the share of rows whose nearest token is the one that stands at their place."""
    hits = [
        probe.target_ids[place] == found
        for tokens, reply, probe in zip(condensed, replies, probes, strict=True)
        if tokens.positions is not None
        for place, found in zip(tokens.positions, reply.written_ids, strict=True)
    ]
    return f"{np.mean(hits):.0%}" if hits else "-"


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Return the table's rows."""
    condenser = load_condenser(arguments.condenser)
    target = load_target(condenser.target_model)
    probes = reconstruction_items(
        target, load_prose(arguments.prose), arguments.limit, arguments.seed
    )
    table = NearestTokens(target)
    rows: list[Row] = []
    contexts = [probe.context_ids for probe in probes]
    for ratio in (float(text) for text in arguments.ratios.split(",")):
        condensed = condenser.condense(contexts, ratio)
        nearest = [table.reply(*pair) for pair in zip(condensed, probes, strict=True)]
        exact = rows_that_are_tokens(condensed, nearest, probes)
        rows.append(row_of("nearest", f"{ratio:g}x", nearest, exact))
        written = write(target, probes, [as_segment(tokens) for tokens in condensed])
        rows.append(row_of("written", f"{ratio:g}x", written, "-"))
        sys.stderr.write(f"{rows[-2]}\n{rows[-1]}\n")
    full: list[Segment] = [TokenIds(tuple(ids)) for ids in contexts]
    rows.append(row_of("written", "the full text", write(target, probes, full), "-"))
    return sorted(rows, key=lambda row: str(row["reader"]))


def table_of(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    cells = [[title for _, title in COLUMNS], ["---"] * len(COLUMNS)]
    cells += [[str(row[name]) for name, _ in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> int:
    """Measure and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prose", type=Path)
    parser.add_argument("--condenser", default="pooled-fast")
    parser.add_argument("--ratios", default="2,4,8")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments)
    print(table_of(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if arguments.markdown:
        page = arguments.markdown.read_text(encoding="utf-8")
        opening, closing = MARKS
        pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
        block = f"{opening}\n\n{table_of(rows)}\n\n{closing}"
        arguments.markdown.write_text(pattern.sub(lambda _: block, page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
