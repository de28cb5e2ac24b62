"""What a subnet on this machine needs before a process starts: keys, chain, tiers, texts.

Where it sits: below ``subnet.py``, which starts the processes in this world.

Design decisions

* Everything is in one folder: remove it and nothing is left, give it again and the subnet goes on.
* The nodes find it by the same variables that anybody sets who adds a node of their own.
* The validator holds the only stake. Its permit comes at an epoch, so one is let pass beforehand.
* Where a number of rounds is wanted, the tiers ask for as many requests as those rounds need, since
  a validator spends half of them on rounds: afterwards the processor is free for users.
* Rounds are played on real text: the documents of the demo, cut into pieces that can be swapped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neural_condense_core.chain.devchain.admin import DevChain, Subnet, make_chain
from neural_condense_core.chain.devchain.location import PATH_ENV
from neural_condense_core.chain.wallets import make_wallet
from neural_condense_core.constants import DEV_NETWORK, TIERS
from neural_condense_core.demo.plan import SubnetPlan
from neural_condense_core.errors import ConfigError
from neural_condense_core.scoring.texts import MIN_TEXT_CHARS

OWNER, VALIDATOR, HOTKEY = "owner", "validator", "default"
CHAIN_FILE = "chain.sqlite"
STAKE = 100_000.0
"""Of the validator, in alpha; nobody else has any."""
PIECE_CHARS = 1_200
MAX_PIECES = 200

_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"'\u201d\u2019)]*(?=\s)|$)")


@dataclass(frozen=True)
class World:
    """A subnet's folder.

    Parameters
    ----------
    folder : of everything
    plan : who takes part
    """

    folder: Path
    plan: SubnetPlan

    @property
    def chain_file(self) -> Path:
        """The development chain."""
        return self.folder / CHAIN_FILE

    @property
    def state(self) -> Path:
        """Where nodes keep what survives a restart."""
        return self.folder / "state"

    @property
    def texts_file(self) -> Path:
        """What challenges are made from; it may not exist."""
        return self.folder / "texts.parquet"

    @property
    def tiers_file(self) -> Path:
        """What differs from the specification's tiers; it may not exist."""
        return self.folder / "tiers.toml"

    def environment(self, threads: int) -> dict[str, str]:
        """Return the variables by which nodes find this world.

        Parameters
        ----------
        threads : of each process that says nothing else
        """
        return self.exports() | {
            "CONDENSE_CHAIN_OVERRIDE": DEV_NETWORK,
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def exports(self) -> dict[str, str]:
        """Return the variables that a user sets to join."""
        found = {
            PATH_ENV: str(self.chain_file),
            "BT_WALLET_PATH": str(self.folder / "wallets"),
            "CONDENSE_STATE_DIR": str(self.state),
        }
        if tier_changes(self.plan):
            found["CONDENSE_TIERS"] = str(self.tiers_file)
        return found

    def make(self, texts: Sequence[str]) -> dict[str, str]:
        """Make what is missing and return name -> hotkey of everybody.

        Parameters
        ----------
        texts : what challenges are made from; none = the validator's own

        Raises
        ------
        ConfigError
            The folder cannot be written, or holds the chain of another subnet.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_tiers()
            write_texts(self.texts_file, texts)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.folder}: {error.strerror}") from error
        names = (OWNER, VALIDATOR, *(miner.name for miner in self.plan.miners))
        wallets = {name: make_wallet(name, HOTKEY, self.folder / "wallets") for name in names}
        hotkeys = {name: str(each.hotkeypub.ss58_address) for name, each in wallets.items()}
        coldkeys = {name: str(each.coldkeypub.ss58_address) for name, each in wallets.items()}
        if not self.chain_file.is_file():
            make_chain(self.chain_file, self.plan.netuid, hotkeys[OWNER], coldkeys[OWNER])
        with self.chain() as chain:
            if self.plan.netuid not in chain.netuids():
                raise ConfigError(
                    f"{self.folder} holds subnet {chain.netuids()[0]}, not {self.plan.netuid}; "
                    "choose another folder"
                )
            for name in names:
                chain.register(self.plan.netuid, hotkeys[name], coldkeys[name])
            chain.set_stake(self.plan.netuid, hotkeys[VALIDATOR], STAKE)
            chain.advance(chain.show(self.plan.netuid).tempo)
        return hotkeys

    @contextmanager
    def chain(self) -> Iterator[DevChain]:
        """Open the chain, with a developer's powers."""
        opened = DevChain(self.chain_file)
        try:
            yield opened
        finally:
            opened.close()

    def show(self) -> Subnet:
        """Return what the chain holds."""
        with self.chain() as chain:
            return chain.show(self.plan.netuid)

    def pass_epoch(self) -> None:
        """Let the blocks of one epoch pass at once."""
        with self.chain() as chain:
            chain.advance(chain.show(self.plan.netuid).tempo)

    def _write_tiers(self) -> None:
        changes = tier_changes(self.plan)
        if not changes:
            self.tiers_file.unlink(missing_ok=True)
            return
        lines = [
            line
            for name in TIERS
            for line in (
                f"[tiers.{name}]",
                *(f"{key} = {json.dumps(value)}" for key, value in changes.items()),
                "",
            )
        ]
        self.tiers_file.write_text("\n".join(lines), encoding="utf-8")


def tier_changes(plan: SubnetPlan) -> Mapping[str, int | str]:
    """Return what differs from the specification's tiers, in all of them."""
    changes: dict[str, int | str] = {}
    if plan.n_rounds:
        # The validator's rounds use half; what is left is for users.
        changes["requests_per_epoch"] = 2 * plan.n_rounds * plan.n_contexts
    if plan.target_model is not None:
        changes["target_model"] = plan.target_model
    return changes


def pieces(text: str, n_chars: int = PIECE_CHARS) -> list[str]:
    """Cut a text into pieces of whole sentences.

    Parameters
    ----------
    text : any
    n_chars : length from which on a piece is full
    """
    found: list[str] = []
    held: list[str] = []
    for sentence in _SENTENCE.findall(" ".join(text.split())):
        held.append(sentence)
        if sum(map(len, held)) + len(held) > n_chars:
            found.append(" ".join(held))
            held = []
    return [*found, " ".join(held)] if held else found


def write_texts(path: Path, texts: Sequence[str]) -> None:
    """Write the pieces of texts as a parquet file that a validator takes; none = no file."""
    rows = [
        piece
        for text in dict.fromkeys(texts)
        for piece in pieces(text)
        if len(piece) >= MIN_TEXT_CHARS
    ]
    if not rows:
        path.unlink(missing_ok=True)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": rows[:MAX_PIECES]}), path)


def n_cores() -> int:
    """Return how many processor cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    found = cores or 1
    return min(found, int(limit)) if limit.isdigit() and int(limit) else found
