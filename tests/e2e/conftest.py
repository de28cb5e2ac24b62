"""Put this folder on the path: the backend's tests share ``backend_process.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
