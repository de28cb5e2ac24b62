"""Put the tests' root on the path: suites share ``published_checkpoints.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
