"""A backend without a model, for the demo's tests: run as ``fake_backend.py PORT [FLAGS]``.

It counts a context's tokens as the byte tokenizer of the tiny models does, and starts a child of
its own, as a real backend starts workers. Ids of both processes go to ``--pids``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--pids", required=True)
    parser.add_argument("--ready_after", type=float, default=0.0)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--target", default="tiny")
    parser.add_argument("--quality", type=float, help="two rows of this number")
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    args: argparse.Namespace
    started: float

    def do_GET(self) -> None:
        elapsed = time.monotonic() - self.started
        if self.args.fail:
            self.reply(503, {"state": "failed", "reason": "no weights here"})
        elif elapsed < self.args.ready_after:
            self.reply(503, {"state": "loading", "stage": "weights", "done": 0.5})
        else:
            self.reply(200, {"state": "ready", "workers": 1})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(self.args.slow)
        n_context = len(body["context"].encode())
        n = math.ceil(n_context / body.get("ratio", 4))
        draw = random.Random(n)
        rows = [[draw.uniform(-0.1, 0.1) for _ in range(self.args.hidden)] for _ in range(n)]
        if self.args.quality is not None:
            rows = [[self.args.quality] * self.args.hidden] * 2
            n = len(rows)
        self.reply(
            200,
            {
                "compressed_tokens": rows,
                "target_model": self.args.target,
                "n_context_tokens": n_context,
                "n_condensed_tokens": n,
                "positions": None,
            },
        )

    def reply(self, status: int, payload: object) -> None:
        body = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    args = parse()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(args.pids, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n{child.pid}\n")
    if args.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.die:
        raise SystemExit("cannot go on")
    Handler.args, Handler.started = args, time.monotonic()
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
