"""A cluster for all tests of this folder, which are skipped where Ray is not installed."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def cluster(tmp_path):
    from two_nodes import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Cluster(tmp_path, port)
    yield found
    found.close()
