"""Many miners: 200 simulated over 50 rounds, and 256 that sign, in one epoch."""

import asyncio
import itertools
import os
import sys
import time

import pytest
from subnet_fakes import (
    BROKEN,
    DEAD,
    FAST,
    HIDDEN,
    LATE,
    REFUSING,
    TIER,
    Echoes,
    EchoMiners,
    FakeChain,
    FakeDendrite,
    FakeExaminer,
    FakeJudge,
    good,
    pair,
    peer,
    roster,
)

from neural_condense_core.constants import EPOCH_LENGTH_S
from neural_condense_core.records import Records
from neural_condense_core.scoring.texts import open_texts
from neural_condense_core.validator.allowances import Allowances
from neural_condense_core.validator.dendrite import Dendrite
from neural_condense_core.validator.examiner import TextExaminer
from neural_condense_core.validator.planning import Planner
from neural_condense_core.validator.replies import MinerInfo
from neural_condense_core.validator.rounds import run_round
from neural_condense_core.validator.sampling import SamplePool
from neural_condense_core.validator.state import State
from neural_condense_core.validator.weighing import WeightSetter

ME = peer(250, "me", endpoint=None, permit=True, stake=1e6)
OWNER = peer(251, "owner", endpoint=None)


def flaky(quality):
    turns = itertools.count()
    return lambda c, t: (good(quality) if next(turns) % 2 else BROKEN)(c, t)


KINDS = {
    "excellent": lambda: good(0.8, 0.05),
    "good": lambda: good(0.6, 0.05),
    "excellent, slow": lambda: good(0.8, 0.95),
    "flaky": lambda: flaky(0.8),
    "weak": lambda: good(0.2, 0.05),
    "noise": lambda: good(0.0, 0.05),
    "misleading": lambda: good(0.5, 0.05),
    "NaN": lambda: BROKEN,
    "refusing": lambda: REFUSING,
    "dead": lambda: DEAD,
    "late": lambda: LATE,
}


def expected_score(kind):
    factor = 1 - FAST.latency_weight * 0.05 / FAST.timeout_s
    slow = 1 - FAST.latency_weight * 0.95 / FAST.timeout_s
    return {
        "excellent": 0.8 * factor, "good": 0.6 * factor, "excellent, slow": 0.8 * slow,
        "flaky": 0.4 * (1 - FAST.latency_weight * 0.1 / FAST.timeout_s), "weak": 0.2 * factor,
    }.get(kind, 0.0)  # fmt: skip


def members(n_miners):
    n = n_miners // len(KINDS) + 1
    everybody = [(kind, i) for i in range(n) for kind in KINDS][:n_miners]
    return {peer(uid, f"{kind}/{i}"): kind for uid, (kind, i) in enumerate(everybody)}


@pytest.mark.parametrize(
    ("n_miners", "n_rounds"), [(22, 20), pytest.param(200, 50, marks=pytest.mark.slow)]
)
def test_miners_of_every_kind_are_ranked_and_paid_for_what_they_do(
    n_miners, n_rounds, tmp_path, capsys
):
    kinds = members(n_miners)
    dendrite = FakeDendrite({who.hotkey: KINDS[kind]() for who, kind in kinds.items()})
    judge = FakeJudge(recovery=lambda name, c: -0.3 if name.startswith("misleading") else c)
    found = roster(OWNER, ME, *kinds)
    chain = FakeChain(found)
    tiers = {FAST.name: FAST}
    now = 1_000_000.0
    with Records(tmp_path / "validator.sqlite") as records:
        state = State(records)
        for who in kinds:
            state.met(who, MinerInfo(FAST.name, FAST.target_model), now)
        allowances = Allowances(tiers)
        allowances.update(found, "me", 0.0)
        planner = Planner(state, allowances, SamplePool(), n_contexts=4, n_miners=200)
        for _ in range(n_rounds):
            now += EPOCH_LENGTH_S / 10
            plan = asyncio.run(planner.plan(FAST, list(kinds), 1, now, now))
            results = asyncio.run(
                run_round(
                    plan, dendrite=dendrite, judge=judge, examiner=FakeExaminer(),
                    draw_seed=itertools.count().__next__,
                )
            )  # fmt: skip
            assert state.finish_round(plan.id, FAST.name, results, now)
        asyncio.run(WeightSetter(chain, "me", state, tiers, version_key=1).step(found, now))
        ratings = state.ratings(FAST.name, kinds, now)
        n_asked = {name: 0 for name in ratings}
        for name, _ in dendrite.asked:
            n_asked[name] += 1
        assert records.weight_sets()[0].confirmed
    weights = chain.held
    rows = []
    for kind in KINDS:
        mine = [who for who, found in kinds.items() if found == kind]
        mean = sum(ratings[who.hotkey] for who in mine) / len(mine)
        share = sum(weights.get(who.uid, 0.0) for who in mine)
        rows.append((kind, len(mine), mean, share, n_asked[mine[0].hotkey]))
    lines = [f"{'kind':16} {'miners':>6} {'rating':>7} {'weight':>7} {'asked':>6}"]
    for kind, n, mean, share, asked in sorted(rows, key=lambda row: -row[2]):
        lines.append(f"{kind:16} {n:6} {mean:7.4f} {share:7.4f} {asked:6}")
    lines.append(f"{'subnet owner':16} {1:6} {'':7} {weights.get(OWNER.uid, 0):7.4f}")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    for kind, _, mean, _, _ in rows:
        assert mean == pytest.approx(expected_score(kind), abs=0.02), kind
    paid = {kind for kind, _, _, share, _ in rows if share}
    assert paid == {"excellent", "good", "excellent, slow", "flaky", "weak"}
    assert sum(row[3] for row in rows) == pytest.approx(FAST.incentive_share, abs=0.01)
    assert weights[OWNER.uid] == pytest.approx(1 - FAST.incentive_share, abs=0.01)
    best = {who.uid for who, kind in kinds.items() if kind == "excellent"}
    assert set(sorted(weights, key=weights.get)[-len(best) - 1 : -1]) == best
    asked = {kind: n for kind, _, _, _, n in rows}
    assert asked["excellent"] == 4 * n_rounds
    assert asked["dead"] < 0.5 * asked["excellent"], "dead miners back off"


@pytest.mark.slow
def test_256_signed_miners_are_asked_in_one_epoch(tmp_path, capsys):
    me = pair("validator")
    pairs = {one.ss58_address: one for one in (pair(f"m{i}") for i in range(256))}
    echoes = Echoes(
        EchoMiners(pairs, {name: {"tier": TIER.name, "quality": 0.5} for name in pairs})
    )
    echoes.start()
    peers = [peer(uid, name, f"127.0.0.1:{echoes.port}") for uid, name in enumerate(pairs)]
    found = roster(peer(900, me.ss58_address, permit=True, stake=1.0), *peers)

    async def epoch(state, planner):
        dendrite = Dendrite(me, me.ss58_address, hidden_size=HIDDEN, allow_private=True)
        examiner = TextExaminer(open_texts(None))
        n_rounds, elapsed = 0, []
        while len(echoes.app.n_served) < len(peers):
            now = time.monotonic()
            plan = await planner.plan(TIER, peers, 1, now, time.time())
            results = await run_round(
                plan, dendrite=dendrite, judge=FakeJudge(), examiner=examiner,
                draw_seed=lambda: 1,
            )  # fmt: skip
            state.finish_round(plan.id, TIER.name, results, time.time())
            elapsed += [reply.elapsed_s for one in results for reply in one.replies]
            assert all(one.score > 0.49 for one in results)
            n_rounds += 1
        await dendrite.close()
        return n_rounds, elapsed

    began_s, began_cpu_s = time.monotonic(), time.process_time()
    with Records(tmp_path / "validator.sqlite") as records:
        state = State(records)
        allowances = Allowances({TIER.name: TIER})
        allowances.update(found, me.ss58_address, 0.0)
        planner = Planner(state, allowances, SamplePool(), n_contexts=4, n_miners=64)
        try:
            n_rounds, elapsed = asyncio.run(epoch(state, planner))
        finally:
            echoes.close()
        assert len(records.latest_scores()) == 256
    took_s = time.monotonic() - began_s
    with capsys.disabled():
        sys.stdout.write(
            f"\n256 miners, {len(elapsed)} signed exchanges, {n_rounds} rounds: {took_s:.1f} s "
            f"({time.process_time() - began_cpu_s:.1f} s of CPU, miners included, "
            f"{os.cpu_count()} cores); median exchange {1000 * sorted(elapsed)[512]:.0f} ms\n"
        )
    assert took_s < EPOCH_LENGTH_S
    assert set(echoes.app.n_served.values()) == {4}
