"""Put helpers on the path: ``dev_world.py``, ``live_world.py``, the fakes of ``tests/engines``."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]

for folder in (_TESTS, _TESTS / "engines", Path(__file__).parent):
    sys.path.insert(0, str(folder))
