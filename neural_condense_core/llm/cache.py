"""Where models and pulled condensers are kept: one folder of the user, no torch."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "CONDENSE_CACHE"


def cache_root() -> Path:
    """Return the cache folder: ``$CONDENSE_CACHE``, else the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    import platformdirs  # a machine that names its cache need not have it

    return Path(platformdirs.user_cache_dir("neural-condense", appauthor=False))
