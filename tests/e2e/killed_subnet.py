"""A subnet of processes of which any may be killed and started again, and its books checked.

Beside the echo miners there are miner nodes by their own command line, each with a backend.
``python killed_subnet.py PORT QUALITY DELAY_S`` runs a backend without a model.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys

import httpx
import pytest
from fastapi import FastAPI
from validator_process import NETUID, Subnet, until

from neural_condense_core.chain.wallets import open_hotkey
from neural_condense_core.commands.wallet_flags import open_or_make_wallet
from neural_condense_core.constants import TIERS
from neural_condense_core.demo.processes import free_port
from neural_condense_core.errors import ConfigError
from neural_condense_core.records.rows import ABANDONED, JUDGED, OPEN
from neural_condense_core.scoring.ratings import Rating, rate, round_score

TIER = "research"
VALIDATOR, MINER, BACKEND, JUDGE = "validator", "miner", "backend", "judge"
EVERYTHING = 100_000
OWNER_UID = 0
LOW_PORTS = 10_000, 30_000
"""Below those that the system gives to outgoing connections: a killed process gets its own back."""


def draw_port(taken):
    return free_port(random.randrange(*LOW_PORTS), list(taken))


def is_ready(port):
    with contextlib.suppress(httpx.HTTPError):
        url = f"http://127.0.0.1:{port}/health/ready"
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    return False


class KilledSubnet(Subnet):
    """A subnet whose parts are known by name.

    ``judge``: its command line, with ``{port}``. ``backends``: name of a miner node -> the command
    line of its backend. ``tier``: what differs from the specification's.
    """

    def __init__(self, folder, specs, *, judge, backends, tier, interval_s=0, environment=None):
        super().__init__(folder, specs)
        self.judge.stop()
        lines = [f"{key} = {json.dumps(value)}" for key, value in tier.items()]
        (folder / "tiers.toml").write_text("\n".join([f"[tiers.{TIER}]", *lines, ""]))
        self.environment["CONDENSE_VALIDATOR_ASK_INTERVAL"] = str(interval_s)
        self.environment.update(environment or {})
        self.ports = {}
        self.lines = {}
        self.parts = {}
        self.hotkeys = {}
        self._add(JUDGE, judge)
        for name, line in backends.items():
            self._add(f"{BACKEND} {name}", line)
            self._add_miner(name)
        self._start_all([name for name in self.lines if not name.startswith(MINER)])
        self._start_all([name for name in self.lines if name.startswith(MINER)])
        until(self._all_published, "the endpoints", self.logs)
        self.parts[VALIDATOR] = self.validator()

    def _add(self, name, words):
        self.ports[name] = draw_port(self.ports.values())
        self.lines[name] = [word.format(port=self.ports[name]) for word in words]

    def _add_miner(self, name):
        wallets = self.folder / "wallets"
        open_or_make_wallet(name, "my_key", wallets)
        address = open_hotkey(name, "my_key", wallets)[1].ss58_address
        self.hotkeys[name] = address
        with self.opened() as chain:
            chain.register(NETUID, address, address)
        port = self.ports[f"{BACKEND} {name}"]
        words = [
            "-m", "neurons.miner", "--netuid", str(NETUID), "--subtensor.network", "finney",
            "--wallet.name", name, "--wallet.key", "my_key", "--miner.tier", TIER,
            "--miner.backend_host", "localhost", "--miner.backend_port", str(port),
            "--axon.port", "{port}",
        ]  # fmt: skip
        self._add(f"{MINER} {name}", words)

    def _start_all(self, names):
        for name in names:
            self.parts[name] = self.start(self.lines[name])
        until(lambda: all(map(self.is_ready, names)), f"{names} to be ready", self.logs, 300)

    def _all_published(self):
        held = {seat.hotkey: seat.endpoint for seat in self.show().seats}
        return all(
            held[address] == f"127.0.0.1:{self.ports[f'{MINER} {name}']}"
            for name, address in self.hotkeys.items()
        )

    def judge_port(self):
        return self.ports[JUDGE]

    def is_ready(self, name):
        assert self.parts[name].process.poll() is None, self.logs()
        return is_ready(self.ports[name])

    def logs(self):
        return "\n".join(f"--- {name}\n{part.log[-2000:]}" for name, part in self.parts.items())

    def kill(self, name):
        self.parts[name].process.kill()
        self.parts[name].process.wait()

    def restart(self, name):
        """Start a part by the line it had, on the port it had."""
        if name == VALIDATOR:
            self.parts[name] = self.validator()
            return
        with self.validator_asleep() if name.startswith(MINER) else contextlib.nullcontext():
            self._start_all([name])

    @contextlib.contextmanager
    def validator_asleep(self):
        """Stop the validator's time: a miner silent for three rounds is left alone for long."""
        validator = self.parts[VALIDATOR].process
        validator.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            validator.send_signal(signal.SIGCONT)

    def others_live(self, name=None):
        """Check that nobody fell, or nobody else with a part."""
        for other, part in self.parts.items():
            assert other == name or part.process.poll() is None, f"{other}:\n{part.log[-2000:]}"

    def rounds(self):
        """Return the rounds, the newest first."""
        try:
            records = self.records()
        except ConfigError:  # it has not begun
            return []
        with records:
            return records.rounds(EVERYTHING)

    def status(self, round_id):
        return next(one.status for one in self.rounds() if one.id == round_id)

    def wait_for_round(self):
        """Return the id of a round that is open; the caller comes at its beginning."""
        before = max((one.id for one in self.rounds()), default=0)

        def opened():
            self.others_live()
            found = self.rounds()
            return found[0].id if found and found[0].id > before else None

        return until(opened, "a round", self.logs, 300)

    def wait_for_judged(self, after, n_good):
        """Wait for a judged round after another one, with so many good replies."""

        def done():
            self.others_live()
            if not self.rounds():
                return False
            with self.records() as records:
                found = records.select(
                    "select rounds.id from rounds join replies on replies.round = rounds.id"
                    " where rounds.id > ? and rounds.status = ? and replies.code = 'ok'"
                    " group by rounds.id having count(*) >= ?",
                    after, JUDGED, n_good,
                )  # fmt: skip
            return bool(found)

        until(done, f"a round after {after} with {n_good} good replies", self.logs, 300)

    def check_books(self, n_contexts, qualities=None):
        """Check that every judged round counts once and that no other counts at all.

        ``qualities``: hotkey -> C of its every good reply; then scores are computed again.
        """
        with self.records() as records:
            assert records.select("pragma integrity_check") == [("ok",)]
            rounds = {one.id: one.status for one in records.rounds(EVERYTHING)}
            scores = sorted(records.scores(limit=EVERYTHING), key=lambda one: one.round)
            replies = records.replies(limit=EVERYTHING)
            ratings = records.select("select hotkey, value, n, updated_round from ratings")
        judged = {made for made, status in rounds.items() if status == JUDGED}
        assert {one.round for one in scores} == {one.round for one in replies} == judged
        assert len({(one.round, one.hotkey) for one in scores}) == len(scores)
        given = {}
        for one in replies:
            given.setdefault((one.round, one.hotkey), []).append(one)
        assert given.keys() == {(one.round, one.hotkey) for one in scores}
        assert {len(found) for found in given.values()} == {n_contexts}
        for one in scores:
            check_score(one, given[one.round, one.hotkey], qualities)
        check_ratings(scores, ratings)
        return rounds

    def weights_after(self, at):
        """Wait for weights that were confirmed after a moment."""

        def confirmed():
            with self.records() as records:
                return any(one.confirmed and one.at > at for one in records.weight_sets(10))

        until(confirmed, "weights", self.logs)

    def earning(self):
        """Return the hotkeys whose rating is above zero."""
        with self.records() as records:
            return [row[0] for row in records.select("select hotkey from ratings where value > 0")]

    def check_pay(self, served):
        """Check on the chain that who scored nothing gets nothing, and the tier no more than its.

        ``served``: hotkeys of everybody who ever answered anything that is worth something.
        """
        seats = {seat.hotkey: seat.uid for seat in self.show().seats}
        held = self.weights()
        assert held.keys() - {OWNER_UID} == {seats[hotkey] for hotkey in served}
        share = TIERS[TIER].incentive_share
        assert sum(held[seats[hotkey]] for hotkey in served) == pytest.approx(share, abs=1e-3)
        return {hotkey: held[seats[hotkey]] for hotkey in served}


def check_score(scored, replies, qualities):
    elapsed = [one.elapsed_s if one.code == "ok" else None for one in replies]
    n_good = sum(taken is not None for taken in elapsed)
    if n_good < 2:
        assert scored.score == 0, scored
    c, r = scored.content_recovery, scored.recovery
    if qualities is not None:
        c = r = qualities[scored.hotkey] if n_good > 1 else None
        assert scored.content_recovery == (None if c is None else pytest.approx(c, abs=1e-3))
    assert scored.score == pytest.approx(round_score(c, r, elapsed, TIERS[TIER]), abs=1e-3), scored


def check_ratings(scores, ratings):
    """Check that the ratings are those of the scores, each counted once and in its order."""
    expected = {}
    for one in scores:
        old = expected.get(one.hotkey)
        new = rate(old, one.score, hotkey=one.hotkey, updated_round=one.round)
        assert one.rating == pytest.approx(new.value)
        expected[one.hotkey] = new
    assert {row[0]: Rating(*row) for row in ratings} == expected


def phases(rounds):
    """Return how many rounds there are of each status."""
    return {name: sum(one == name for one in rounds.values()) for name in (JUDGED, ABANDONED, OPEN)}


def backend_app(quality, delay_s, hidden=8):
    app = FastAPI()

    @app.get("/health/ready")
    async def ready():
        return {"state": "ready"}

    @app.post("/{path:path}")
    async def condense(path: str):
        await asyncio.sleep(delay_s)
        return [[quality] * hidden] * 2

    return app


if __name__ == "__main__":
    from subnet_fakes import serve

    serve(backend_app(float(sys.argv[2]), float(sys.argv[3])), int(sys.argv[1]))
