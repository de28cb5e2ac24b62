"""The dashboard's process: bind, serve until a signal, exit 0.

Design decisions

* Loopback unless told otherwise: the page shows every miner's scores and asks nobody who reads it.
* A page's event stream never ends by itself, so a stop does not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

from neural_condense_core.dashboard.app import create_app
from neural_condense_core.records import Records
from neural_condense_core.wire.listening import bind, make_server

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 1
MAX_CONNECTIONS = 256


def run(path: Path, host: str, port: int) -> None:
    """Serve until stopped.

    Parameters
    ----------
    path : the records of a validator
    host, port : where to listen; port 0 = any free one
    """
    with Records(path, read_only=True) as records, bind(host, port) as listener:
        address = listener.getsockname()
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        log.info("the dashboard is at http://%s:%d/", name, address[1])
        server = make_server(create_app(records), grace_s=GRACE_S, max_connections=MAX_CONNECTIONS)

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            for number in SIGNALS:
                loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
            await server.serve(sockets=[listener])

        asyncio.run(serve())
