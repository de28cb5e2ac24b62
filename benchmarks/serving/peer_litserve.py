"""LitServe with ``fast_queue``: ``python -m benchmarks.serving.peer_litserve litserve PORT``.

One worker, no batching (on a no-op its batching is slower), and replies as bytes, since its own
encoding of floats takes seconds on large ones. Needs an environment where litserve is installed.
"""

# No postponed annotations: LitServe looks at that of ``decode_request``.

from typing import Any

import litserve as ls  # type: ignore[import-not-found, unused-ignore]
from fastapi import Request, Response

from benchmarks.serving.peers import arguments, encode, rows_of, work


class Api(ls.LitAPI):  # type: ignore[misc, unused-ignore]
    """One condenser."""

    def __init__(self, kind: str) -> None:
        super().__init__(api_path="/condense")
        self.kind = kind

    def setup(self, device: str) -> None:
        """Make the rows."""
        self.rows = rows_of(self.kind)

    def decode_request(self, request: Request) -> Any:
        """Return the text; what comes is the parsed body."""
        return request["context"]

    def predict(self, x: Any) -> Any:
        """Take the condenser's time."""
        work(self.kind, x)
        return self.rows

    def encode_response(self, output: Any) -> Any:
        """Return bytes."""
        return Response(encode(output), media_type="application/json")


def main() -> None:
    """Serve until it is ended."""
    given = arguments("litserve")
    server = ls.LitServer(
        Api(given.kind), accelerator="cpu", workers_per_device=1, fast_queue=True,
        timeout=given.timeout,
    )  # fmt: skip
    server.run(host="127.0.0.1", port=given.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
