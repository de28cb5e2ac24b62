"""The command lines of a subnet's processes, each as anybody would type it.

Where it sits: ``subnet.py`` starts them. In each ``{port}`` stands for the process's own port.
"""

from __future__ import annotations

import sys
from pathlib import Path

from neural_condense_core.constants import DEV_NETWORK
from neural_condense_core.demo.plan import MinerPlan, SubnetPlan
from neural_condense_core.demo.processes import HOST, PORT_FIELD, Backend
from neural_condense_core.demo.world import HOTKEY, VALIDATOR, World

SCORING = "scoring"
SCORING_LAUNCHER = Path("services/validator_backend/scoring/app.py")


def backend(plan: SubnetPlan, condenser: str) -> Backend:
    """Return how a condenser's backend is started.

    Parameters
    ----------
    plan : of the subnet
    condenser : one of its condensers
    """
    argv = plan.backends.get(condenser)
    if argv is None:
        argv = (
            *(sys.executable, "-m", "neural_condense_core.cli", "serve"),
            *("--condenser", condenser, "--port", PORT_FIELD, "--devices", "1"),
            *_target(plan),
        )
    return Backend(backend_name(condenser), argv)


def backend_name(condenser: str) -> str:
    """Return the name of a condenser's backend process."""
    return f"{condenser} backend"


def scoring(plan: SubnetPlan, root: Path, threads: int) -> Backend:
    """Return how the scoring service is started.

    Parameters
    ----------
    plan : of the subnet
    root : of the source tree, if it is there
    threads : of the model
    """
    if plan.judge is not None:
        return Backend(SCORING, plan.judge)
    start: tuple[str, ...] = (str(SCORING_LAUNCHER),)
    if not (root / SCORING_LAUNCHER).is_file():  # only the package is installed
        start = ("-c", "from neural_condense_core.scoring.server import score_app; score_app()")
    flags = ("--port", PORT_FIELD, "--threads", str(threads), "--baselines", "none")
    return Backend(SCORING, (sys.executable, *start, *flags, *_target(plan)))


def miner(plan: SubnetPlan, each: MinerPlan, backend_port: int) -> Backend:
    """Return how a miner is started.

    Parameters
    ----------
    plan : of the subnet
    each : the miner
    backend_port : where its backend listens
    """
    argv = (
        *(sys.executable, "-m", "neurons.miner", *_chain_and_wallet(plan, each.name)),
        *("--miner.tier", each.tier),
        *("--miner.backend_host", HOST, "--miner.backend_port", str(backend_port)),
        *("--axon.port", PORT_FIELD),
    )
    return Backend(each.name, argv)


def validator(world: World, scoring_port: int) -> Backend:
    """Return how the validator is started; ``{port}`` is its organic API's.

    Parameters
    ----------
    world : the subnet's
    scoring_port : where the scoring service listens
    """
    plan = world.plan
    argv = (
        *(sys.executable, "-m", "neurons.validator", *_chain_and_wallet(plan, VALIDATOR)),
        *("--validator.score_backend.host", HOST),
        *("--validator.score_backend.port", str(scoring_port)),
        *("--validator.gate_port", PORT_FIELD),
        *("--validator.contexts_per_round", str(plan.n_contexts)),
        *("--validator.ask_interval", f"{plan.ask_interval_s:g}", "--validator.ask_gap", "0"),
    )
    texts = ("--validator.texts", str(world.texts_file)) if world.texts_file.is_file() else ()
    return Backend(VALIDATOR, (*argv, *texts))


def as_typed(argv: tuple[str, ...], port: int) -> str:
    """Return a command line as a user would type it."""
    words = ["python" if word == sys.executable else word for word in argv]
    return " ".join(words).replace(PORT_FIELD, str(port))


def _chain_and_wallet(plan: SubnetPlan, wallet: str) -> tuple[str, ...]:
    return (
        *("--netuid", str(plan.netuid), "--subtensor.network", DEV_NETWORK),
        *("--wallet.name", wallet, "--wallet.key", HOTKEY),
    )


def _target(plan: SubnetPlan) -> tuple[str, ...]:
    return () if plan.target_model is None else ("--target_model", plan.target_model)
