"""Put this folder on the path: the tests of scoring share ``rounds.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
