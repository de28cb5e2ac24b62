"""The whole validator in one process: what hangs or is away delays nothing else."""

import asyncio
import time

import pytest
from subnet_fakes import (
    HIDDEN,
    MODEL,
    TIER,
    Echoes,
    EchoMiners,
    FakeChain,
    FakeJudge,
    judge_info,
    pair,
    peer,
    roster,
)

from neural_condense_core.config import ValidatorSettings
from neural_condense_core.errors import BackendError, ConfigError, RequestError
from neural_condense_core.records import Records
from neural_condense_core.scoring.texts import open_texts
from neural_condense_core.validator import node, weighing
from neural_condense_core.validator.checks import Start, version_key
from neural_condense_core.validator.node import Validator
from neural_condense_core.validator.state import State

ME = pair("validator")
OWNER = peer(0, "owner", endpoint=None)


class Judge(FakeJudge):
    is_away = False
    n_told = 0

    async def ready(self):
        if self.is_away:
            raise BackendError("the scoring service is away")
        return True

    async def info(self):
        self.n_told += 1
        return judge_info(MODEL, HIDDEN)


class Setting:
    """A validator over fakes; ``run`` lets it work until a condition holds."""

    def __init__(self, folder):
        self.pairs = {one.ss58_address: one for one in (pair("m1"), pair("m2"))}
        specs = {
            name: {"tier": TIER.name, "quality": 0.4 * (i + 1)} for i, name in enumerate(self.pairs)
        }
        self.miners = Echoes(EchoMiners(self.pairs, specs))
        self.miners.start()
        peers = [
            peer(uid, name, f"127.0.0.1:{self.miners.port}")
            for uid, name in enumerate(self.pairs, 1)
        ]
        me = peer(9, ME.ss58_address, endpoint=None, permit=True, stake=1.0)
        self.chain = FakeChain(roster(OWNER, *peers, me))
        self.judge = Judge()
        self.records = Records(folder / "validator.sqlite")
        self.settings = ValidatorSettings(
            netuid=52, network="dev", state_dir=folder, ask_interval_s=0.0, ask_gap_s=0.0
        )
        self.start = Start(
            None, ME, ME.ss58_address, {TIER.name: TIER}, open_texts(None), None, folder
        )

    def run(self, *steps, within_s=40.0):
        """Run; each step is a function to call once the condition before it holds."""

        async def go():
            one = Validator(self.settings, self.start, self.chain, State(self.records), self.judge)
            working = asyncio.create_task(one.run())
            give_up_s = time.monotonic() + within_s
            for step in steps:
                while not step():
                    if working.done():
                        await working
                    assert time.monotonic() < give_up_s, "waited too long"
                    await asyncio.sleep(0.05)
            one._stop.set()
            await working

        asyncio.run(go())

    def n_judged(self):
        return sum(one.status == "judged" for one in self.records.rounds(10_000))

    def close(self):
        self.miners.close()
        self.records.close()


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "RETRY_S", 0.3)
    monkeypatch.setattr(node, "DEV_PERIOD_S", 0.2)
    made = Setting(tmp_path)
    yield made
    made.close()


def test_it_asks_rates_and_sets_weights(setting):
    setting.run(lambda: setting.n_judged() >= 2, lambda: setting.chain.held)
    assert setting.chain.held[0] == pytest.approx(0.5, abs=1e-3)
    assert setting.chain.held[2] / setting.chain.held[1] == pytest.approx(8, rel=0.01)
    assert {one.status for one in setting.records.rounds()} <= {"judged", "abandoned"}


def test_trap_33_a_chain_that_hangs_delays_no_round(setting, monkeypatch):
    monkeypatch.setattr(weighing, "SUBMIT_TIMEOUT_S", 5.0)
    marks = []

    def hang():
        setting.chain.hangs = True
        marks.append(setting.n_judged())
        return True

    setting.run(lambda: setting.n_judged() >= 1, hang, lambda: setting.n_judged() > marks[0] + 2)


def test_a_chain_that_fails_twice_is_asked_again(setting):
    marks = []

    def fail():
        setting.chain.fails = 2
        marks.append(setting.n_judged())
        return True

    setting.run(
        lambda: setting.n_judged() >= 1, fail, lambda: setting.chain.fails == 0,
        lambda: setting.n_judged() > marks[0],
    )  # fmt: skip


def test_while_the_judge_is_away_no_miner_is_asked(setting):
    setting.judge.is_away = True
    until = time.monotonic() + 1.5

    def back():
        if time.monotonic() < until:
            return False
        assert setting.miners.app.n_served == {}
        assert setting.records.rounds() == []
        setting.judge.is_away = False
        return True

    setting.run(back, lambda: setting.n_judged() >= 1)


def test_a_judge_that_refuses_the_token_scores_nobody_and_is_asked_anew(setting):
    setting.judge.error = RequestError("a wrong token", {"status": 401})

    def let_in():
        if setting.judge.n_told < 2:
            return False
        assert setting.n_judged() == 0
        assert setting.records.latest_scores() == []
        setting.judge.error = None
        return True

    setting.run(let_in, lambda: setting.n_judged() >= 1)


def test_who_is_not_registered_is_told_what_to_run(setting):
    setting.chain.found = roster(OWNER)
    with pytest.raises(ConfigError, match="condense register --netuid 52"):
        setting.run(lambda: False)


def test_a_round_that_was_cut_off_is_closed_at_the_start(setting):
    state = State(setting.records)
    cut = state.begin_round(TIER.name, 1, [peer(1, "m")], time.time())
    setting.run(lambda: setting.n_judged() >= 1)
    found = next(one for one in setting.records.rounds() if one.id == cut)
    assert found.status == "abandoned"


def test_the_version_is_one_number():
    assert version_key() >= 1
