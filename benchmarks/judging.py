"""How many miners the real judge scores in one epoch on this machine.

``python benchmarks/judging.py [--miners 3] [--contexts 4] [--tier research] [--threads 2]
[--baselines none] [--json PATH]``. Every miner gets contexts of its own, as in a validator's round,
and answers with the first tokens of each at 4x; what is timed is the judging of their replies by
the embedded target model. An epoch is 360 blocks of 12 seconds.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence

from neural_condense_core.condensers.checkpoints import DEFAULT_TARGET_MODEL, load_condenser
from neural_condense_core.console import messages, write_json
from neural_condense_core.constants import TIERS
from neural_condense_core.scoring.challenges import make_challenges
from neural_condense_core.scoring.service import ServiceConfig
from neural_condense_core.scoring.texts import open_texts
from neural_condense_core.scoring.worker import WorkerSpec, build_service
from neural_condense_core.wire.scoring import Challenge, ReplyRef, ScoreLimits, ScoreRequest

EPOCH_S = 360 * 12.0
RATIO = 4
CONDENSER = "truncate-head"


def challenges_of(miner: int, contexts: int, max_chars: int) -> list[Challenge]:
    """Return one miner's challenges under ids that no other miner's have."""
    made = make_challenges(miner, contexts, max_chars, open_texts(None))
    return [
        challenge.model_copy(update={"id": f"{miner}-{index}"})
        for index, challenge in enumerate(made)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Judge a round and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--miners", type=int, default=3)
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--tier", choices=sorted(TIERS), default="research")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baselines", default="none", help="names with commas, or none")
    parser.add_argument("--json", metavar="PATH", default=None)
    args = parser.parse_args(argv)

    baselines = () if args.baselines == "none" else tuple(args.baselines.split(","))
    service = build_service(
        WorkerSpec(
            target_model=DEFAULT_TARGET_MODEL,
            device="cpu",
            dtype="auto",
            threads=args.threads,
            baselines=baselines,
            config=ServiceConfig(),
            limits=ScoreLimits(),
        )
    )
    condenser = load_condenser(CONDENSER, service.target.name)
    seconds = []
    for miner in range(args.miners + 1):
        challenges = challenges_of(miner, args.contexts, TIERS[args.tier].max_context_chars)
        refs, tensors = [], {}
        for challenge in challenges:
            ids = condenser.tokenize(challenge.context)
            tensors[challenge.id] = condenser.condense([ids], RATIO)[0].embeds
            refs.append(ReplyRef(id=challenge.id, miner=str(miner), challenge=challenge.id))
        request = ScoreRequest(
            target_model=service.target.name,
            seed=miner,
            challenges=tuple(challenges),
            replies=tuple(refs),
        )
        start_s = time.perf_counter()
        service.score(request, tensors)
        seconds.append(time.perf_counter() - start_s)
        messages().print(f"miner {miner}: {seconds[-1]:.1f} s", highlight=False)
    # The first pays for building kernels.
    per_miner_s = sum(seconds[1:]) / args.miners
    messages().print(
        f"{per_miner_s:.1f} s a miner of {args.contexts} contexts of tier {args.tier}, "
        f"{args.threads} threads: {EPOCH_S / per_miner_s:.0f} miners in an epoch of "
        f"{EPOCH_S:.0f} s",
        highlight=False,
    )
    if args.json:
        result = {
            "machine": platform.processor() or platform.machine(),
            "tier": args.tier,
            "contexts": args.contexts,
            "threads": args.threads,
            "baselines": list(baselines),
            "seconds": seconds[1:],
            "seconds_per_miner": per_miner_s,
            "miners_per_epoch": EPOCH_S / per_miner_s,
        }
        write_json(args.json, result)


if __name__ == "__main__":
    main()
