"""Put ``tests`` and this folder on the path, for the fakes and helpers."""

import sys
from pathlib import Path

for folder in (Path(__file__).parents[1], Path(__file__).parent):
    sys.path.insert(0, str(folder))
