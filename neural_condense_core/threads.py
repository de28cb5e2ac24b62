"""How many CPU threads a process computes with, decided before any numerical library is loaded.

Where it sits: worker processes call it first; the libraries read the environment when imported.

Design decisions

* GNU OpenMP lets threads that wait for each other spin for milliseconds. On a machine that does
  other work the one they wait for may not be running, and a pass through a model becomes several
  times slower. ``SPIN_COUNT`` is some tens of microseconds: as fast on an idle machine, and with
  both of two cores taken by others 140 ms instead of 500 for a context of 1,536 characters
  (``docs/log.md``). Who sets ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY`` decides otherwise.
"""

from __future__ import annotations

import os

SPIN_COUNT = 20_000


def use_threads(n: int) -> None:
    """Set the number of CPU threads of this process and of what it starts.

    Parameters
    ----------
    n : at least 1
    """
    os.environ["OMP_NUM_THREADS"] = str(n)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
