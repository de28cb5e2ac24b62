"""A whole subnet on this machine: start it, play rounds, serve a user, read the chain, stop it.

Where it sits: ``flow.py`` plays it after the demo's first part, ``up.py`` keeps it running.

Design decisions

* Every node is a process started by its own command line, which is shown; they meet only over HTTP
  and in the chain's file, as they would on two continents.
* Miners of one condenser share its backend. While miners answer, each backend has few threads; the
  scoring service, which works when they do not, has all.
* The validator starts last: it meets miners that are there, and everybody gets as many rounds.
* Nothing waits without a deadline, and what ended is told with its last words. A miner that fails
  ends nothing; without a scoring service or a validator there are no rounds.
* Rounds and weights are watched where anybody could: in the validator's records and on the chain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from neural_condense_core.api_keys import FILE_NAME as KEYS_FILE
from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.client.backend import BackendClient
from neural_condense_core.demo import nodes
from neural_condense_core.demo.leaderboard import SubnetReport, judged_rounds, miner_rows
from neural_condense_core.demo.narration import Narrator
from neural_condense_core.demo.plan import SubnetPlan
from neural_condense_core.demo.processes import Backend, BackendProcesses, Running, free_port
from neural_condense_core.demo.waiting import wait_until_ready
from neural_condense_core.demo.world import OWNER, VALIDATOR, World, n_cores
from neural_condense_core.errors import ConfigError
from neural_condense_core.records import FILE_NAME, Records

if TYPE_CHECKING:
    from types import TracebackType

PROBE_TIMEOUT_S = 2.0
POLL_S = 0.5
SETTLE_TIMEOUT_S = 90.0
USER = "demo"


class LocalSubnet:
    """One subnet; a context manager that leaves no process behind.

    Parameters
    ----------
    plan : who takes part
    folder : of everything that it makes
    root : working directory of the processes; that of the source tree, if it is there
    environment : variables for all processes, on top of our own
    narrator : tells the user
    """

    def __init__(
        self,
        plan: SubnetPlan,
        folder: Path,
        root: Path,
        environment: dict[str, str],
        narrator: Narrator,
    ) -> None:
        self.plan = plan
        self.world = World(folder, plan)
        self.report = SubnetReport(plan.netuid, plan.n_rounds)
        self.hotkeys: dict[str, str] = {}
        self.running: dict[str, Running] = {}
        self._root = root
        self._narrator = narrator
        self._threads = n_cores()
        threads = max(1, self._threads // len(plan.condensers))
        variables = {**environment, **self.world.environment(threads)}
        self._processes = BackendProcesses(root, variables, folder / "logs")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all processes."""
        try:
            self.stop()
        finally:  # a signal may have cut the first stop short; there is no second one
            self.stop()

    def stop(self) -> None:
        """End all processes; may be called again."""
        self._processes.stop()

    @property
    def records_file(self) -> Path:
        """The validator's records."""
        return self._validator_folder / FILE_NAME

    @property
    def _validator_folder(self) -> Path:
        hotkey = self.hotkeys[VALIDATOR]
        return self.world.state / "dev" / f"netuid_{self.plan.netuid}" / hotkey

    def url(self, name: str) -> str:
        """Return where a process is."""
        return self.running[name].url

    def prepare(self, texts: Sequence[str]) -> None:
        """Make wallets, chain and texts.

        Parameters
        ----------
        texts : what challenges are made from; none = the validator's own
        """
        with self._narrator.phase("subnet: prepare", "Making a chain, wallets and registrations"):
            self.hotkeys = self.world.make(texts)
        for name, value in self.world.exports().items():
            self._narrator.say(f"  $ export {name}={value}")

    def start(self) -> bool:
        """Start everybody and wait until all are ready; return whether rounds can be played."""
        plan = self.plan
        first = [
            nodes.scoring(plan, self._root, self._threads),
            *(nodes.backend(plan, condenser) for condenser in plan.condensers),
        ]
        if nodes.SCORING not in self._start("backends", "the backends and the scoring", first):
            return False
        miners = []
        for each in plan.miners:
            behind = self.running.get(nodes.backend_name(each.condenser))
            if behind is None:
                self._fail(each.name, "not started: its backend is not there")
            else:
                miners.append(nodes.miner(plan, each, behind.port))
        if not self._start("miners", "the miners", miners):
            return False
        last = nodes.validator(self.world, self.running[nodes.SCORING].port)
        return VALIDATOR in self._start("validator", "the validator", [last])

    def play_rounds(self) -> bool:
        """Wait until every miner that runs has been scored in all rounds; return whether so."""
        n, plan = self.plan.n_rounds, self.plan
        expected = [each for each in plan.miners if each.name in self.running]
        with (
            self._narrator.phase("subnet: rounds", f"Playing {n} rounds with every miner"),
            self._narrator.progress() as show,
        ):

            def are_played() -> bool:
                counts = self._score_counts()
                done = [counts.get(self.hotkeys[each.name], 0) for each in expected]
                show(f"rounds of each miner: {', '.join(map(str, done))}")
                return min(done) >= n

            return self._until("rounds", are_played, plan.rounds_timeout_s)

    def settle(self) -> bool:
        """Wait until the chain holds the newest ratings' weights, and let an epoch pay by them."""
        with self._narrator.phase("subnet: weights", "Waiting for the weights on the chain"):
            since = time.time()
            # The validator sends once a tempo: let that time pass at once.
            self.world.pass_epoch()
            done = self._until("weights", lambda: self._are_confirmed(since), SETTLE_TIMEOUT_S)
            if done:
                self.world.pass_epoch()
        return done

    def read(self) -> SubnetReport:
        """Fill the report from records and chain, as they are now."""
        report = self.report
        subnet = self.world.show()
        miners = [(each, self.hotkeys[each.name]) for each in self.plan.miners]
        report.blocks = subnet.block
        seats = {seat.hotkey: seat.uid for seat in subnet.seats}
        held = subnet.weights.get(seats[self.hotkeys[VALIDATOR]], {})
        report.unearned = held.get(seats[self.hotkeys[OWNER]], 0.0)
        records = self._records()
        if records is None:
            return report
        with records:
            report.miners = miner_rows(miners, records, subnet, self.hotkeys[VALIDATOR])
            report.rounds = judged_rounds(records)
        return report

    def add_user(self) -> str:
        """Make a key for the organic API, as ``condense keys add`` does, and return it."""
        with ApiUsers(self._validator_folder / KEYS_FILE) as users:
            return users.add(USER)[1]

    def condenser_of(self, hotkey: str) -> str:
        """Return what a miner's backend serves."""
        return next(
            (each.condenser for each in self.plan.miners if self.hotkeys[each.name] == hotkey), ""
        )

    def ended(self) -> dict[str, str]:
        """Return name -> last words of processes that have ended, and forget them."""
        found = {}
        for name, each in list(self.running.items()):
            if each.has_ended():
                found[name] = f"ended; its last words:\n{each.log_tail()}"
                del self.running[name]
        return found

    def _records(self) -> Records | None:
        try:
            return Records(self.records_file, read_only=True)
        except ConfigError:  # the validator has not begun
            return None

    def _score_counts(self) -> dict[str, int]:
        records = self._records()
        if records is None:
            return {}
        with records:
            return dict(records.select("select hotkey, count(*) from scores group by hotkey"))

    def _are_confirmed(self, since: float) -> bool:
        records = self._records()
        if records is None:
            return False
        with records:
            return any(each.confirmed and each.at >= since for each in records.weight_sets(5))

    def _until(self, what: str, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Poll; give up at the deadline, or when a process without which it cannot be has ended."""
        give_up_s = time.monotonic() + timeout_s
        while not is_done():
            for name, why in self.ended().items():
                self._fail(name, why)
            if not {VALIDATOR, nodes.SCORING} <= self.running.keys():
                return False
            if time.monotonic() > give_up_s:
                self._fail(what, f"not there after {timeout_s:.0f} s")
                return False
            time.sleep(POLL_S)
        return True

    def _start(self, phase: str, what: str, wanted: Sequence[Backend]) -> list[str]:
        """Start processes side by side and return the names of those that are ready."""
        with self._narrator.phase(f"subnet: {phase}", f"Starting {what}"):
            started = [self._launch(each) for each in wanted]
            with ExitStack() as stack:
                clients = {
                    each.url: stack.enter_context(BackendClient(each.url)) for each in started
                }
                found = wait_until_ready(
                    started,
                    lambda each: clients[each.url].ready(PROBE_TIMEOUT_S),
                    self.plan.ready_timeout_s,
                    stack.enter_context(self._narrator.progress()),
                )
            for name, why in found.failures.items():
                self._fail(name, why)
            ready = {each.backend.name: each for each in started}
            self.running |= {name: ready[name] for name in found.ready_s}
        return list(found.ready_s)

    def _launch(self, wanted: Backend) -> Running:
        taken = [each.port for each in self._processes.running]
        is_gate = wanted.name == VALIDATOR
        first = self.plan.gate_port if is_gate else self.plan.first_port
        port = free_port(first, taken)
        self._narrator.say(f"  $ {nodes.as_typed(wanted.argv, port)}")
        return self._processes.start(wanted, port)

    def _fail(self, name: str, why: str) -> None:
        self.report.failures[name] = why
        self._narrator.fail(name, why)
