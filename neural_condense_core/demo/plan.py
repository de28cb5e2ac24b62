"""Who takes part in a subnet on this machine, and how much is played.

Where it sits: ``cli.py`` and ``up.py`` make a plan of their flags; ``world.py``, ``nodes.py`` and
``subnet.py`` carry it out.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from neural_condense_core.constants import TIERS
from neural_condense_core.demo.processes import PORT_FIELD
from neural_condense_core.errors import ConfigError
from neural_condense_core.registry import suggest

NETUID = 52


@dataclass(frozen=True)
class MinerPlan:
    """One miner.

    Parameters
    ----------
    tier : that it serves
    condenser : name of what its backend serves
    name : of its wallet and its process
    """

    tier: str
    condenser: str
    name: str


@dataclass(frozen=True)
class SubnetPlan:
    """One subnet.

    Parameters
    ----------
    miners : at least one
    netuid : the subnet
    target_model : None = the embedded one
    n_rounds : rounds to play with every miner; 0 = without end
    n_contexts : contexts a miner and round
    ask_interval_s : least time between two rounds of a miner
    first_port : of the first process, unless it is taken
    gate_port : of the organic API, unless it is taken
    ready_timeout_s : how long each group of processes may take to start
    rounds_timeout_s : how long all rounds together may take
    backends : condenser -> command line of its backend; of those that are not started as usual
    judge : command line of the scoring service; None = as usual
    """

    miners: tuple[MinerPlan, ...]
    netuid: int = NETUID
    target_model: str | None = None
    n_rounds: int = 2
    n_contexts: int = 4
    ask_interval_s: float = 0.0
    first_port: int = 8080
    gate_port: int = 9000
    ready_timeout_s: float = 300.0
    rounds_timeout_s: float = 600.0
    backends: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    judge: tuple[str, ...] | None = None

    @property
    def condensers(self) -> tuple[str, ...]:
        """What backends serve; miners of one condenser share its backend."""
        return tuple(dict.fromkeys(miner.condenser for miner in self.miners))


DEFAULT_MINERS = (
    "research=icae",
    "research=pooled",
    "research=truncate-head",
    "research=noise",
    "inference_0=pooled",
    "inference_0=truncate-head",
)
"""As ``--miner`` takes them: trained, training-free, and one that must earn nothing."""


def parse_miners(specs: Sequence[str]) -> tuple[MinerPlan, ...]:
    """Return the miners of ``--miner`` flags.

    Parameters
    ----------
    specs : ``TIER=CONDENSER`` each; none = ``DEFAULT_MINERS``

    Raises
    ------
    ConfigError
        One is not as above, or there is no such tier.
    """
    found = []
    times: Counter[str] = Counter()
    for spec in specs or DEFAULT_MINERS:
        tier, _, condenser = spec.partition("=")
        if not tier or not condenser:
            raise ConfigError(f"--miner takes TIER=CONDENSER, got {spec!r}")
        if tier not in TIERS:
            known = ", ".join(TIERS)
            raise ConfigError(f"--miner: no tier {tier!r}.{suggest(tier, TIERS)} Known: {known}")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{tier}-{condenser}").strip("-")[:60]
        times[name] += 1
        suffix = f"-{times[name]}" if times[name] > 1 else ""
        found.append(MinerPlan(tier, condenser, f"{name}{suffix}"))
    return tuple(found)


def parse_commands(flag: str, specs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return name -> command line.

    Parameters
    ----------
    flag : for messages
    specs : ``NAME=COMMAND`` each, the command with ``{port}`` in it

    Raises
    ------
    ConfigError
        One is not as above, or two have the same name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for spec in specs:
        name, _, command = spec.partition("=")
        if not name or PORT_FIELD not in command:
            raise ConfigError(f"{flag} takes NAME=COMMAND with {PORT_FIELD} in it, got {spec!r}")
        if name in found:
            raise ConfigError(f"{flag}: the name {name!r} is taken; give another")
        found[name] = tuple(shlex.split(command))
    return found
