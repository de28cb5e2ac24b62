"""The validator's lifecycle: check, start, watch, ask, weigh, serve, stop.

Where it sits: ``neurons/validator.py`` calls ``run``.

Design decisions

* What can be checked here is checked before the chain is asked anything, and all faults are told
  together.
* Each duty is a loop of its own under one supervisor: a chain that hangs delays no round, a
  scoring service that is away delays no user, and a fault in one is logged and tried again.
* The scoring service may come later, go and come back: rounds wait for it, and a round that it
  fails scores nobody.
* Stopping abandons the round in hand. Nothing of it was written, so nothing of it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from neural_condense_core.api_keys import FILE_NAME as KEYS_FILE
from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.chain.base import Chain, Roster
from neural_condense_core.chain.connect import open_chain
from neural_condense_core.client.scoring import ScoringClient
from neural_condense_core.config import DEFAULT_MIN_STAKE, ValidatorSettings
from neural_condense_core.constants import DEV_NETWORK
from neural_condense_core.errors import (
    ConfigError,
    DeadlineError,
    NeuralCondenseError,
    UnavailableError,
    UnknownModelError,
    type_and_frames,
)
from neural_condense_core.records import FILE_NAME, Records
from neural_condense_core.validator.allowances import Allowances
from neural_condense_core.validator.checks import LOCK_FILE, Start, check, only_one, version_key
from neural_condense_core.validator.dendrite import Dendrite
from neural_condense_core.validator.examiner import TextExaminer
from neural_condense_core.validator.explaining import Explainer
from neural_condense_core.validator.organic import OrganicService
from neural_condense_core.validator.planning import Planner, draw_seed
from neural_condense_core.validator.rounds import RoundPlan, run_round
from neural_condense_core.validator.sampling import SamplePool
from neural_condense_core.validator.state import State
from neural_condense_core.validator.watching import Watch
from neural_condense_core.validator.weighing import WeightSetter
from neural_condense_core.wire.listening import bind, make_server
from neural_condense_core.wire.scoring import ScoreLimits, ScoringInfo
from neural_condense_core.wire.signing import NonceStore

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CONNECT_TIMEOUT_S = 55.0
PERIOD_S = 30.0
DEV_PERIOD_S = 2.0
IDLE_S = 0.5
RETRY_S = 5.0
STOP_TIMEOUT_S = 10.0
KEEP_RECORDS_S = 30 * 86_400.0
PRUNE_PERIOD_S = 3_600.0
NONCES_FILE = "nonces.sqlite"


def run(settings: ValidatorSettings) -> None:
    """Run a validator until a signal ends it; a fault of the set-up raises ``ConfigError``."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("neural_condense_core").setLevel(settings.logging_level.upper())
    start = check(settings)
    with contextlib.suppress(KeyboardInterrupt), only_one(start.folder / LOCK_FILE):
        asyncio.run(_run(settings, start))


async def _run(settings: ValidatorSettings, start: Start) -> None:
    network = settings.effective_network
    chain = await open_chain(
        network, settings.netuid, start.wallet, connect_timeout_s=CONNECT_TIMEOUT_S
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(chain.close)
        records = stack.enter_context(Records(start.folder / FILE_NAME))
        state = State(records)
        state.claim(start.hotkey, settings.netuid, network)
        state.remember_tiers(start.tiers)
        judge = ScoringClient(settings.score_url, start.token, settings.round_timeout_s)
        await stack.enter_async_context(judge)
        await Validator(settings, start, chain, state, judge).run()


class Validator:
    """One validator.

    Parameters
    ----------
    settings : its flags
    start : what the checks found
    chain : connected
    state : its memory
    judge : the scoring service
    """

    def __init__(
        self,
        settings: ValidatorSettings,
        start: Start,
        chain: Chain,
        state: State,
        judge: ScoringClient,
    ) -> None:
        self.settings = settings
        self._start = start
        self._state = state
        self._judge = judge
        self._info: ScoringInfo | None = None
        self._stop = asyncio.Event()
        network = settings.effective_network
        is_local = network in {DEV_NETWORK, "local"} or "//127." in network
        self._period_s = DEV_PERIOD_S if settings.is_dev else PERIOD_S
        self._dendrite = Dendrite(start.pair, start.hotkey, allow_private=is_local)
        self._watch = Watch(chain, self._dendrite, state, start.tiers, start.hotkey)
        self._allowances = Allowances(start.tiers, settings.contexts_per_round)
        self._pool = SamplePool()
        self._planner = Planner(
            state,
            self._allowances,
            self._pool,
            n_contexts=settings.contexts_per_round,
            n_miners=settings.miners_per_round,
            interval_s=settings.ask_interval_s,
            gap_s=settings.ask_gap_s,
        )
        self._examiner = TextExaminer(start.texts)
        self._setter = WeightSetter(
            chain,
            start.hotkey,
            state,
            start.tiers,
            version_key=version_key(),
            is_dry_run=settings.is_dry_run,
        )

    async def run(self) -> None:
        """Work until a signal, then stop."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        abandoned = self._state.records.abandon_rounds("the validator stopped", time.time())
        if abandoned:
            log.info("%d rounds were cut off by the last stop; they score nobody", abandoned)
        self._allowances.preload(self._state.records, time.monotonic(), time.time())
        self._check_place(await self._sync())
        duties: dict[str, tuple[Callable[[], Awaitable[object]], float]] = {
            "chain": (self._sync, self._period_s),
            "miners": (self._meet, self._period_s),
            "rounds": (self._rounds, IDLE_S),
            "weights": (self._weigh, self._period_s),
            "records": (self._prune, PRUNE_PERIOD_S),
        }
        tasks = [
            asyncio.create_task(self._forever(name, step, period_s), name=name)
            for name, (step, period_s) in duties.items()
        ]
        if self.settings.gate_port:
            tasks.append(asyncio.create_task(self._serve(), name="gate"))
        log.info("validating subnet %d as %s", self.settings.netuid, self._start.hotkey)
        waiting = asyncio.create_task(self._stop.wait())
        # The gate ends early only by a fault, which must not go unseen.
        gates = [task for task in tasks if task.get_name() == "gate"]
        await asyncio.wait([waiting, *gates], return_when=asyncio.FIRST_COMPLETED)
        self._stop.set()
        await self._end([*tasks, waiting])
        for gate in gates:
            if not gate.cancelled() and gate.exception() is not None:
                gate.result()

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        log.info("stopping")
        for task in tasks:
            if task.get_name() != "gate":
                task.cancel()
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dendrite.close()
        self._state.records.abandon_rounds("the validator stopped", time.time())

    async def _forever(
        self, name: str, step: Callable[[], Awaitable[object]], period_s: float
    ) -> None:
        """Do one duty again and again; the supervisor of everything that may fail."""
        while not self._stop.is_set():
            wait_s = period_s
            try:
                await step()
            except NeuralCondenseError as error:
                log.warning("%s: %s", name, error.message)
                wait_s = max(period_s, RETRY_S)
            except (sqlite3.Error, OSError) as error:
                log.warning("%s: %s: %s", name, type(error).__name__, error)
                wait_s = max(period_s, RETRY_S)
            except Exception as error:  # noqa: BLE001 - the others must go on
                log.error("%s: raised %s", name, type_and_frames(error))
                wait_s = max(period_s, RETRY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stop.wait()

    def _check_place(self, roster: Roster) -> None:
        me = roster.by_hotkey(self._start.hotkey)
        if me is None:
            raise ConfigError(
                f"hotkey {self._start.hotkey} is not registered on subnet {roster.netuid}; on the "
                f"machine that holds the coldkey run: condense register --netuid {roster.netuid}"
            )
        if not me.permit:
            log.warning("uid %d has no validator permit yet: weights will be refused", me.uid)

    async def _sync(self) -> Roster:
        roster = await self._watch.read_roster()
        least = 0.0 if self.settings.is_dev else DEFAULT_MIN_STAKE
        self._allowances.update(roster, self._start.hotkey, least)
        self._watch.rank(time.time())
        return roster

    async def _meet(self) -> None:
        await self._watch.meet(time.monotonic(), time.time())
        self._watch.rank(time.time())

    async def _weigh(self) -> None:
        roster = await self._watch.read_roster()
        await asyncio.to_thread(self._state.note_incentives, roster, time.time())
        await self._setter.step(roster, time.time())

    async def _prune(self) -> None:
        before = time.time() - KEEP_RECORDS_S
        await asyncio.to_thread(self._state.records.prune, before)

    async def _rounds(self) -> None:
        """Run one round of each tier that is due and that the scoring service knows.

        Raises
        ------
        UnavailableError
            It is not ready; no miner is asked for nothing.
        """
        if not await self._judge.ready():
            raise UnavailableError("the scoring service is not ready yet; rounds wait for it")
        info = await self._judge_info()
        for tier in self._start.tiers.values():
            if tier.target_model != info.target_model:
                continue
            members = self._watch.members(tier.name)
            roster = self._watch.board.roster
            block = roster.block if roster else 0
            plan = await self._planner.plan(tier, members, block, time.monotonic(), time.time())
            if plan is not None:
                await self._round(plan, info)

    async def _round(self, plan: RoundPlan, info: ScoringInfo) -> None:
        began_s = time.monotonic()
        limits = ScoreLimits(
            max_bytes=info.max_body_bytes,
            max_replies=info.max_replies,
            max_challenges=info.max_challenges,
        )
        try:
            async with asyncio.timeout(self.settings.round_timeout_s):
                results = await run_round(
                    plan,
                    dendrite=self._dendrite,
                    judge=self._judge,
                    examiner=self._examiner,
                    draw_seed=draw_seed,
                    limits=limits,
                )
        except (TimeoutError, DeadlineError):
            self._planner.took(1.0)
            self._abandon(plan, f"it took too long; {self._planner.n_miners} miners in the next")
            return
        except UnknownModelError:
            self._info = None
            self._abandon(plan, "the scoring service serves another target model now")
            return
        except NeuralCondenseError as error:
            self._info = None
            self._abandon(plan, error.code)
            raise
        except Exception:
            self._abandon(plan, "a fault of the validator")
            raise
        self._planner.took((time.monotonic() - began_s) / self.settings.round_timeout_s)
        finish = partial(self._state.finish_round, plan.id, plan.tier.name, results, time.time())
        if await asyncio.to_thread(finish):
            n_ok = sum(one.status == "ok" for result in results for one in result.replies)
            log.info(
                "round %d, tier %s: %d miners, %d good replies, %.1f s",
                plan.id, plan.tier.name, len(results), n_ok, time.monotonic() - began_s,
            )  # fmt: skip
        self._watch.rank(time.time())

    def _abandon(self, plan: RoundPlan, reason: str) -> None:
        self._state.records.abandon_rounds(reason, time.time(), round_id=plan.id)
        log.warning("round %d is abandoned and scores nobody: %s", plan.id, reason)

    async def _judge_info(self) -> ScoringInfo:
        if self._info is None:
            info = await self._judge.info()
            self._dendrite.hidden_size = info.hidden_size
            models = {tier.target_model for tier in self._start.tiers.values()}
            for model in sorted(models - {info.target_model}):
                log.warning("tiers of %s are not judged: the scoring service has no such", model)
            self._info = info
        return self._info

    async def _serve(self) -> None:
        # The web framework is loaded only where it is needed.
        from neural_condense_core.validator.gate import MAX_CONNECTIONS, GateParts, create_app

        folder, records = self._start.folder, self._state.records
        service = OrganicService(
            self._dendrite,
            lambda: self._watch.board,
            lambda tier, peer: self._allowances.may_ask(tier, peer, time.monotonic()),
            self._pool,
            records.write_organic,
            random.SystemRandom(),
        )
        with (
            ApiUsers(folder / KEYS_FILE) as users,
            NonceStore(folder / NONCES_FILE) as store,
            Explainer(
                records.path, lambda: self._watch.board.roster, self._start.tiers
            ) as explainer,
            bind(
                self.settings.gate_host, self.settings.gate_port, flags="--validator.gate_port"
            ) as listener,
        ):
            parts = GateParts(
                service,
                users,
                lambda: self._watch.board,
                explainer,
                self._start.hotkey,
                store,
            )
            server = make_server(create_app(parts), max_connections=MAX_CONNECTIONS)
            stopping = asyncio.create_task(self._stop_server(server))
            host, port = listener.getsockname()[:2]
            log.info("organic API at http://%s:%d", host, port)
            await server.serve(sockets=[listener])
            stopping.cancel()

    async def _stop_server(self, server: Any) -> None:
        await self._stop.wait()
        server.should_exit = True
