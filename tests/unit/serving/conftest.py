"""Put this folder on the path: the tests of the routes share ``fake_engine.py``."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def engine():
    from fake_engine import FakeEngine

    return FakeEngine()
