"""Put ``tests`` on the path, for ``dev_world.py``, and this folder, for ``stub_client.py``."""

import sys
from pathlib import Path

import pytest

for folder in (Path(__file__).parents[2], Path(__file__).parent):
    sys.path.insert(0, str(folder))


@pytest.fixture
def world(tmp_path):
    from dev_world import DevWorld

    return DevWorld(tmp_path)
