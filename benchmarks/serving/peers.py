"""Bare FastAPI, and what all peers share: ``python -m benchmarks.serving.peers fastapi PORT``.

Run by the interpreter of an environment where the peers are installed (``make bench``); nothing of
the package is imported. What they send is what the backend sends for the same condenser.

* ``fastapi``: a route that returns bytes, on uvloop and httptools.
* ``plain``: the same on asyncio and h11.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.serving.load import COMPUTED_ENV, ID_DIGITS, NAP_S_PER_BYTE

SMALL, LARGE = (8, 64), (256, 4096)


def encode(rows: Any) -> bytes:
    """Return the rows as JSON, as fast as a library writes them."""
    return orjson.dumps({"compressed_tokens": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def rows_of(kind: str) -> Any:
    """Return what a condenser of this kind makes."""
    shape = LARGE if kind == "big" else SMALL
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def work(kind: str, context: str) -> None:
    """Take the time that the condenser takes, and note what was computed."""
    if kind == "nap":
        path = os.environ.get(COMPUTED_ENV)
        if path:
            with Path(path).open("a", encoding="ascii") as file:
                file.write(context[:ID_DIGITS] + "\n")
        time.sleep(NAP_S_PER_BYTE * len(context.encode()))


def serve_fastapi(kind: str, port: int, *, fast: bool) -> None:
    """Serve a route and nothing else."""
    app, rows = FastAPI(), rows_of(kind)

    @app.post("/condense")
    async def condense(request: Request) -> Response:
        orjson.loads(await request.body())["context"]
        return Response(encode(rows), media_type="application/json")

    @app.get("/health")
    async def health() -> str:
        return "ok"

    loop, http = ("uvloop", "httptools") if fast else ("asyncio", "h11")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", loop=loop, http=http)


def arguments(*names: str) -> argparse.Namespace:
    """Read a peer's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=names)
    parser.add_argument("port", type=int)
    parser.add_argument("--kind", default="noop", choices=("noop", "big", "nap"))
    parser.add_argument("--timeout", type=float, default=60.0)
    return parser.parse_args()


def main() -> None:
    """Serve until it is ended."""
    given = arguments("fastapi", "plain")
    serve_fastapi(given.kind, given.port, fast=given.peer == "fastapi")


if __name__ == "__main__":
    main()
