"""Put this folder on the path: the tests of the routes share ``gateway_fakes.py``."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def world():
    from gateway_fakes import World

    return World()
