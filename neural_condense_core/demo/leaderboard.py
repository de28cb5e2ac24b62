"""The leaderboard: what the validator's records and the chain say of every miner.

Design decisions

* C and R are means over the rounds; S is the rating that weights follow. Weight and incentive are
  read from the chain, not computed here.
* A miner that was never scored has its row too, with what is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from neural_condense_core.chain.devchain.admin import Subnet
from neural_condense_core.demo.plan import MinerPlan
from neural_condense_core.records import JUDGED, Records, ScoreRow
from neural_condense_core.records.explaining import ADVICE, sentence_of
from neural_condense_core.validator.replies import OK

MARK = "-"
NEXT_TO_NOTHING = 0.05
"""Content recovery below which a few contexts cannot tell a miner from one that sends noise."""


@dataclass(frozen=True)
class MinerRow:
    """One miner.

    Parameters
    ----------
    uid, hotkey, tier, condenser : who it is
    score : the rating, mean of its rounds' S
    content_recovery, recovery : C and R, means over its rounds; None = not measured
    weight : that the validator gave it, as the chain holds it
    incentive : of the last epoch
    replies : code -> how many
    rounds : in which it was scored
    reason : why it has its score, in short
    why : the last round in full
    """

    uid: int
    hotkey: str
    tier: str
    condenser: str
    score: float = 0.0
    content_recovery: float | None = None
    recovery: float | None = None
    weight: float = 0.0
    incentive: float = 0.0
    replies: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 0
    reason: str = "it was not asked"
    why: str = ""


def miner_rows(
    miners: Sequence[tuple[MinerPlan, str]],
    records: Records,
    subnet: Subnet,
    validator: str,
) -> list[MinerRow]:
    """Return every miner's row, tier by tier, the highest score first.

    Parameters
    ----------
    miners : with their hotkeys
    records : of the validator
    subnet : as the chain holds it
    validator : its hotkey
    """
    seats = {seat.hotkey: seat for seat in subnet.seats}
    weights = subnet.weights.get(seats[validator].uid, {}) if validator in seats else {}
    counts = records.reply_counts()
    rows = []
    for plan, hotkey in miners:
        seat = seats[hotkey]
        scores = records.scores(hotkey, 1_000)
        found = MinerRow(
            seat.uid,
            hotkey,
            plan.tier,
            plan.condenser,
            weight=weights.get(seat.uid, 0.0),
            incentive=seat.incentive,
            replies=counts.get(hotkey, {}),
        )
        rows.append(_scored(found, scores, records) if scores else found)
    tiers = list(dict.fromkeys(plan.tier for plan, _ in miners))
    return sorted(rows, key=lambda row: (tiers.index(row.tier), -row.score, row.uid))


def _scored(row: MinerRow, scores: Sequence[ScoreRow], records: Records) -> MinerRow:
    newest = scores[0]
    replies = records.replies(round_id=newest.round, hotkey=row.hotkey)
    found = replace(
        row,
        score=newest.rating,
        content_recovery=_mean([each.content_recovery for each in scores]),
        recovery=_mean([each.recovery for each in scores]),
        rounds=len(scores),
        why=sentence_of(newest, replies),
    )
    return replace(found, reason=reason_of(found, scores))


def reason_of(row: MinerRow, scores: Sequence[ScoreRow]) -> str:
    """Return in a few words why a miner has its score.

    Parameters
    ----------
    row : with its numbers
    scores : of its rounds
    """
    parts = []
    for code, n in row.replies.items():
        if code != OK:
            parts.append(f"{n} x {code}" + (f": {ADVICE[code]}" if code in ADVICE else ""))
    n_misleading = sum(each.recovery is not None and each.recovery < 0 for each in scores)
    if row.content_recovery is None:
        parts.append("content recovery could not be measured")
    elif n_misleading:
        parts.append(
            f"in {n_misleading} of {len(scores)} rounds R < 0, worse than no text, so S = 0 there"
        )
    elif row.content_recovery < NEXT_TO_NOTHING:
        parts.append("says next to nothing about the text")
    else:
        parts.append(f"keeps {row.content_recovery:.0%} of what is specific to the text")
    return "; ".join(parts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


@dataclass
class SubnetReport:
    """Everything that a run of a subnet found.

    Parameters
    ----------
    netuid : the subnet
    miners : rows of the leaderboard
    n_rounds : how many every miner was to be scored in
    blocks : newest block of the chain
    rounds : tier -> rounds that were judged
    unearned : the share that nobody earned, which goes to the subnet's owner
    organic : the user's question and what came of it; None = it was not asked
    failures : process or step -> what was wrong
    """

    netuid: int
    n_rounds: int
    miners: list[MinerRow] = field(default_factory=list)
    blocks: int = 0
    rounds: dict[str, int] = field(default_factory=dict)
    unearned: float = 0.0
    organic: dict[str, Any] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everybody was scored often enough, paid by the chain, and the user answered."""
        return (
            not self.failures
            and bool(self.miners)
            and all(row.rounds >= self.n_rounds for row in self.miners)
            and sum(row.weight for row in self.miners) + self.unearned > 0
            and self.organic is not None
            and bool(self.organic.get("answer"))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as it stands in ``condense demo --json``."""
        return {
            "netuid": self.netuid,
            "blocks": self.blocks,
            "rounds": self.rounds,
            "miners": [{**asdict(row), "replies": dict(row.replies)} for row in self.miners],
            "unearned": self.unearned,
            "organic": self.organic,
            "failures": self.failures,
            "ok": self.ok,
        }


def judged_rounds(records: Records) -> dict[str, int]:
    """Return tier -> how many rounds were judged."""
    found: dict[str, int] = {}
    for each in records.rounds(10_000):
        if each.status == JUDGED:
            found[each.tier] = found.get(each.tier, 0) + 1
    return found


def render_subnet(report: SubnetReport) -> Group:
    """Return the leaderboard and the user's question as tables."""
    parts: list[Table | str] = [_leaderboard(report), *_reasons(report), *_remarks(report)]
    if report.organic is not None:
        parts.append(_organic(report.organic))
    return Group(*parts)


def _leaderboard(report: SubnetReport) -> Table:
    rounds = ", ".join(f"{n} of {tier}" for tier, n in report.rounds.items()) or "none"
    table = Table(
        title=f"Subnet {report.netuid} at block {report.blocks}; rounds: {rounds}",
        caption="C, R: means over the rounds. S: the rating that weights follow. Weight and "
        f"incentive: read from the chain; {report.unearned:.3f} of the weight was earned by "
        "nobody and is the subnet owner's.",
    )
    for column in ("tier", "uid", "condenser"):
        table.add_column(column, no_wrap=True)
    for column in ("C", "R", "S", "weight", "incentive"):
        table.add_column(column, justify="right", no_wrap=True)
    for i, row in enumerate(report.miners):
        is_last = i + 1 == len(report.miners) or report.miners[i + 1].tier != row.tier
        table.add_row(
            *(row.tier, str(row.uid), escape(row.condenser)),
            *(_number(row.content_recovery), _number(row.recovery), _number(row.score)),
            *(f"{row.weight:.4f}", f"{row.incentive:.4f}"),
            end_section=is_last,
        )
    return table


def _reasons(report: SubnetReport) -> list[str]:
    """Say of everybody why; a column of the table would be too narrow for it."""
    return [
        escape(f"  uid {row.uid}, {row.condenser} in {row.tier}: {row.reason}.")
        for row in report.miners
    ]


def _remarks(report: SubnetReport) -> list[str]:
    """Say in words who is best, whoever that is."""
    found = []
    for tier in dict.fromkeys(row.tier for row in report.miners):
        rows = [row for row in report.miners if row.tier == tier]
        best = rows[0]
        if best.score > 0:
            found.append(
                f"Best in {tier}: {escape(best.condenser)}, with S {best.score:.3f} and "
                f"{best.weight:.3f} of all weight."
            )
        else:
            found.append(f"Nobody in {tier} earned anything.")
        unpaid = [escape(row.condenser) for row in rows if not row.incentive]
        if unpaid:
            found.append(f"Without incentive in {tier}: {', '.join(unpaid)}.")
    return found


def _organic(found: Mapping[str, Any]) -> Table:
    table = Table(title="A user's question, its text condensed through the organic API")
    for column in ("question", "the LLM read", "answer"):
        table.add_column(column, overflow="fold")
    n, n_condensed = found["n_context_tokens"], found["n_condensed_tokens"]
    asked = f"{found['question']}\ngold: {found['gold'] or MARK}"
    by = f"{n_condensed} condensed tokens of uid {found['uid']} ({found['condenser']})"
    table.add_row(escape(asked), f"the text, {n} tokens", escape(_line(found["answer_full"])))
    table.add_row("", escape(by), escape(_line(found["answer"])))
    return table


def _line(text: str | None) -> str:
    return " ".join((text or "").split()) or MARK


def _number(value: float | None) -> str:
    return MARK if value is None else f"{value:.3f}"
