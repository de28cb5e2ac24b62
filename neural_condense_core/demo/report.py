"""What the demo found, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from neural_condense_core.demo.document import Document, Question
from neural_condense_core.demo.leaderboard import SubnetReport, render_subnet

MARK = "-"
"""Stands in a table where there is no figure."""


@dataclass(frozen=True)
class MethodRow:
    """One method on the document; a backend, or a baseline in this process.

    Parameters
    ----------
    condenser : name
    url : of a backend, else None
    n_condensed_tokens, bytes, ms : None if it gave nothing valid
    recovery : R over the answers
    content_recovery : C over the answers
    """

    condenser: str
    url: str | None = None
    n_condensed_tokens: int | None = None
    bytes: int | None = None
    ms: float | None = None
    recovery: float | None = None
    content_recovery: float | None = None


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and what was answered from each form of the document.

    Parameters
    ----------
    question : with its gold answer, if one was given
    answers : form -> text; forms are ``"none"``, ``"full"`` (if it fits the model), the backends
        and the best baseline, by name
    """

    question: Question
    answers: dict[str, str]


@dataclass
class DemoReport:
    """Everything one demo found; filled phase by phase.

    Parameters
    ----------
    document : the text
    n_context_tokens : of the text; 0 until the target model has counted
    backends, baselines : one row each
    questions : with all answers
    seconds : phase -> seconds; ``ready NAME`` for each backend
    failures : backend -> what was wrong with it
    subnet : what the second part found; None = it was not played
    """

    document: Document
    n_context_tokens: int = 0
    backends: list[MethodRow] = field(default_factory=list)
    baselines: list[MethodRow] = field(default_factory=list)
    questions: list[AnsweredQuestion] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    subnet: SubnetReport | None = None

    @property
    def ok(self) -> bool:
        """Whether each backend gave a valid matrix and every answer, and the subnet worked."""
        return (
            not self.failures
            and (self.subnet is None or self.subnet.ok)
            and bool(self.backends)
            and bool(self.questions)
            and all(
                asked.answers.get(row.condenser)
                for asked in self.questions
                for row in self.backends
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report in the schema of ``condense demo --json``."""
        return {
            "schema": 1,
            "document": {
                "path": self.document.path,
                "sha256": self.document.sha256,
                "words": self.document.n_words,
                "n_context_tokens": self.n_context_tokens,
            },
            "backends": [asdict(row) for row in self.backends],
            "baselines": [_without_url(row) for row in self.baselines],
            "questions": [
                {
                    "question": asked.question.question,
                    "gold": asked.question.gold,
                    "answers": asked.answers,
                }
                for asked in self.questions
            ],
            "subnet": None if self.subnet is None else self.subnet.to_json(),
            "seconds": {phase: round(value, 3) for phase, value in self.seconds.items()},
            "ok": self.ok,
        }


def _without_url(row: MethodRow) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key != "url"}


def render(report: DemoReport) -> Group:
    """Return the report as tables: the methods, the answers, and the subnet if it was played."""
    tables = [_methods(report), _answers(report)]
    if report.subnet is None:
        return Group(*tables)
    return Group(*tables, render_subnet(report.subnet))


def best_baseline(rows: Sequence[MethodRow]) -> MethodRow | None:
    """Return the baseline with the highest content recovery, if any has one."""
    rated = [row for row in rows if row.content_recovery is not None]
    return max(rated, key=lambda row: row.content_recovery or 0.0, default=None)


def _methods(report: DemoReport) -> Table:
    n_context = report.n_context_tokens
    n_answers = len(report.questions)
    table = Table(
        title=f"{escape(report.document.path)}: {report.document.n_words:,} words, "
        f"{n_context:,} tokens for the LLM",
        caption=f"R and C over {n_answers} answers about one document: an example. "
        "'condense eval' measures. C 0 = says nothing about this text, 1 = as much as the full "
        "text. Bytes: UTF-8 of the text, the matrix of condensed tokens.",
    )
    table.add_column("the LLM reads")
    for column in ("tokens", "ratio", "bytes", "ms", "R", "C"):
        table.add_column(column, justify="right")
    table.add_row("none", "0", MARK, "0", MARK, "0.00", "0.00")
    text_bytes = len(report.document.text.encode())
    table.add_row(
        "full text", f"{n_context:,}", "1.0x", f"{text_bytes:,}", MARK, "1.00", "1.00",
        end_section=True,
    )  # fmt: skip
    for rows, style in ((report.backends, "bold"), (report.baselines, "")):
        for row in rows:
            last = row is rows[-1]
            table.add_row(*_cells(row, n_context), style=style, end_section=last)
    return table


def _cells(row: MethodRow, n_context: int) -> list[str]:
    n = row.n_condensed_tokens
    return [
        escape(row.condenser + (", over HTTP" if row.url else "")),
        MARK if n is None else f"{n:,}",
        MARK if n is None else f"{n_context / n:.1f}x",
        MARK if row.bytes is None else f"{row.bytes:,}",
        MARK if row.ms is None else f"{row.ms:,.0f}",
        _share(row.recovery),
        _share(row.content_recovery),
    ]


def _share(value: float | None) -> str:
    return MARK if value is None else f"{value:.2f}"


def _answers(report: DemoReport) -> Table:
    best = best_baseline(report.baselines)
    table = Table(title="Answers, by what the LLM read")
    for column in ("question", "the LLM read", "answer"):
        table.add_column(column, overflow="fold")
    for asked in report.questions:
        left = [asked.question.question, f"gold: {asked.question.gold or MARK}"]
        for i, (name, said) in enumerate(asked.answers.items()):
            label = f"{name} (best baseline)" if best and name == best.condenser else name
            cells = ("\n".join(left) if i == 0 else "", label, " ".join(said.split()) or MARK)
            table.add_row(*map(escape, cells), end_section=i == len(asked.answers) - 1)
    return table
