"""Echo that takes its time, so that a node can be killed while it works."""

import os
import time
from pathlib import Path

from neural_condense_core.condensers.echo import EchoCondenser

SECONDS = 0.02


class SlowEcho(EchoCondenser):
    """Echo with a pause before each batch."""

    name = "slow-echo"

    @classmethod
    def load(cls, options):
        (Path(os.environ["LOADED_FOLDER"]) / str(os.getpid())).touch()
        return super().load(options)

    def condense(self, contexts, ratio, *, queries=None):
        time.sleep(SECONDS)
        return super().condense(contexts, ratio, queries=queries)
