"""Run a miner node: ``python -m neurons.miner --netuid 52 --miner.tier research ...``."""

import sys

from neural_condense_core.miner.node import main

if __name__ == "__main__":
    sys.exit(main())
