"""A backend of somebody else's, without a model: run as ``load_backend.py PORT [FLAGS]``.

It knows one route and one answer, of a format and with a fault that flags choose, and serves its
queue one by one, so that its capacity is known: ``1 / --service``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import sys

import numpy as np
from safetensors.numpy import save

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/vnd.safetensors"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--reply", default="list")
    parser.add_argument("--hidden", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--fault", default="")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--service", type=float, default=0.0, help="seconds, one at a time")
    parser.add_argument("--path", default="/condense")
    parser.add_argument("--fail_every", type=int, default=0, help="HTTP 500, each so many")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--timing", action="store_true", help="say times in headers")
    return parser.parse_args()


def answer(args: argparse.Namespace) -> tuple[str, bytes]:
    matrix = np.linspace(-1, 1, args.rows * args.hidden, dtype=np.float32)
    matrix = matrix.reshape(args.rows, args.hidden)
    if args.fault == "nan":
        matrix[0, 0] = np.nan
    if args.fault == "text":
        return JSON, b"it worked!"
    if args.fault == "ragged":
        return JSON, json.dumps([*matrix.tolist(), [0.0]]).encode()
    match args.reply:
        case "list":
            return JSON, json.dumps(matrix.tolist()).encode()
        case "object":
            return JSON, json.dumps({"compressed_tokens": matrix.tolist()}).encode()
        case "base64":
            text = base64.b64encode(as_npy(matrix)).decode()
            return JSON, json.dumps({"compressed_tokens_b64": text}).encode()
        case "npy":
            return NPY, as_npy(matrix)
        case "safetensors":
            return SAFETENSORS, save({"compressed_tokens": matrix})
    raise SystemExit(f"no reply {args.reply!r}")


def as_npy(matrix: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, matrix)
    return out.getvalue()


class Server:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.media_type, self.body = answer(args)
        self.turn = asyncio.Lock()
        self.n = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(
                    line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line
                )
                await reader.readexactly(int(fields.get(b"content-length", 0)))
                await self.reply(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        is_ours = head.startswith(f"POST {self.args.path} ".encode())
        status, body = (self.args.status, self.body) if is_ours else (404, b"{}")
        if is_ours:
            self.n += 1
            if self.args.hang:
                await asyncio.sleep(3600)
            async with self.turn:
                await asyncio.sleep(self.args.service)
            if self.args.fail_every and self.n % self.args.fail_every == 0:
                status = 500
        timing = "X-Queue-Time: 1\r\nX-Inference-Time: 2.5\r\n" if self.args.timing else ""
        writer.write(
            f"HTTP/1.1 {status} Whatever\r\nContent-Type: {self.media_type}\r\n{timing}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()


async def main() -> None:
    args = parse()
    server = await asyncio.start_server(Server(args).serve, "127.0.0.1", args.port)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
