"""Where the development chain's file is."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PATH_ENV = "CONDENSE_DEV_CHAIN"
CACHE_ENV = "CONDENSE_CACHE"
FILE_NAME = "devchain.sqlite"


def chain_path() -> Path:
    """Return ``$CONDENSE_DEV_CHAIN``, else a file in the cache folder."""
    named = os.environ.get(PATH_ENV)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get(CACHE_ENV) or platformdirs.user_cache_dir(
        "neural-condense", appauthor=False
    )
    return Path(cache) / FILE_NAME
