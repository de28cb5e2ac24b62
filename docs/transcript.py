"""Write docs/transcript.md: both backends, given good and bad input with curl.

They are started as the specification starts them. Long matrices are cut, nothing else is changed.

    python docs/transcript.py
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCHERS = "services/miner_backend/serving"
READY_S = 300
NOT_RUN = "<!-- no-run: docs/transcript.py runs these and writes this page -->"
JSON_TYPE = "-H 'Content-Type: application/json'"
CONTEXT = (
    "Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer, "
    "and Aunt Em, who was the farmer's wife. Their house was small, for the lumber to build it had "
    "to be carried by wagon many miles."
)
SCENES = {
    "Health": ["/health/live", "/health/ready", "/info"],
    "A context, and how short it becomes": [
        f"/condense {JSON_TYPE} -d @context.json",
        f"/condense {JSON_TYPE} -d @context_at_8.json",
        f"/condense {JSON_TYPE} -d @context_at_most_10.json",
    ],
    "The bare list of the specification, and binary formats": [
        f"/condense {JSON_TYPE} -H 'Accept: application/json; shape=list' -d @context.json",
        f"/condense {JSON_TYPE} -H 'Accept: application/x-npy; dtype=float16' -d @context.json"
        " -o out.npy -D -",
        f"/condense {JSON_TYPE} -H 'Accept: application/vnd.safetensors' -d @context.json"
        " -o out.safetensors -D -",
    ],
    "Bad input": [
        f"/condense {JSON_TYPE} -d 'not json'",
        f"/condense {JSON_TYPE} -d '{{}}'",
        f"/condense {JSON_TYPE} -d '{{\"context\": 7}}'",
        f'/condense {JSON_TYPE} -d \'{{"context": "   "}}\'',
        f'/condense {JSON_TYPE} -d \'{{"context": "x", "target_model": "gpt-2"}}\'',
        f'/condense {JSON_TYPE} -d \'{{"context": "x", "ratio": 3}}\'',
        f"/condense {JSON_TYPE} -H 'Accept: image/png' -d @context.json",
        "/condense -H 'Content-Type: text/plain' -d hello",
        f"/condense {JSON_TYPE} -d @five_megabytes.json",
        f"/condense {JSON_TYPE} -d @seventeen_thousand_tokens.json",
        "/no/such/route",
    ],
}


def write_inputs(folder: Path) -> None:
    """Write the request bodies that the scenes name."""
    quoted = CONTEXT.replace('"', '\\"')
    bodies = {
        "context": f'{{"context": "{quoted}"}}',
        "context_at_8": f'{{"context": "{quoted}", "ratio": 8}}',
        "context_at_most_10": f'{{"context": "{quoted}", "max_condensed_tokens": 10}}',
        "five_megabytes": f'{{"context": "{"word " * 1_000_000}"}}',
        "seventeen_thousand_tokens": f'{{"context": "{"word " * 17_000}"}}',
    }
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(body, encoding="utf-8")


@contextlib.contextmanager
def backend(name: str, port: int) -> Iterator[str]:
    """Start a backend as the specification does; stop it in the end.

    Raises
    ------
    SystemExit
        It ended, or was not ready in time.
    """
    line = f"{LAUNCHERS}/{name}_app.py --port {port} --devices 1 --workers_per_device 1"
    process = subprocess.Popen(
        [sys.executable, *shlex.split(line)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://localhost:{port}"
        deadline = time.monotonic() + READY_S
        while '"ready"' not in run(f"curl -s {url}/health/ready", ROOT):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} is not ready; start it by hand to see why")
            time.sleep(0.5)
        yield f"python {line}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def run(command: str, folder: Path) -> str:
    """Run a command line, return what it printed."""
    done = subprocess.run(
        shlex.split(command), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout


def shortened(text: str) -> str:
    """Cut matrices and long lists of numbers, keep everything else."""
    text = re.sub(r"(\[-?\d[^,\]]*,-?\d[^,\]]*),[-\d.,eE]*\]", r"\1,...]", text)
    text = re.sub(r"(\[\[[^\]]*\],\[[^\]]*\]),.*?\]\]", r"\1,...]]", text)
    text = re.sub(r"\r", "", text)
    return text.strip()


def scene(url: str, call: str, folder: Path) -> list[str]:
    """Run one call, return it as the lines of a console."""
    path, _, rest = call.partition(" ")
    command = f"curl -s {url}{path} {rest}".strip()
    status = "" if "-D -" in command else ' -w "\\n%{http_code}"'
    return [f"$ {command}", shortened(run(command + status, folder)), ""]


def main() -> None:
    """Start both backends, run all scenes, write the document."""
    lines = [
        "# Both backends, given good and bad input",
        "",
        "Written by `python docs/transcript.py`, which starts the backends as the specification",
        "does and runs these commands. Long matrices are cut (`...`), nothing else is changed. The",
        'last line of a reply is its HTTP status. `context.json` holds `{"context": ...}` with',
        "two sentences of *The Wonderful Wizard of Oz*.",
        "",
    ]
    for name, port in (("icae", 8080), ("pooled", 8081)):
        with tempfile.TemporaryDirectory() as folder, backend(name, port) as started:
            write_inputs(Path(folder))
            lines += [f"## {name}", "", NOT_RUN, "```sh", started, "```", ""]
            for title, calls in SCENES.items():
                lines += [f"### {name}: {title}", "", NOT_RUN, "```console"]
                for call in calls:
                    lines += scene(f"http://localhost:{port}", call, Path(folder))
                lines += ["```", ""]
    (ROOT / "docs/transcript.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
