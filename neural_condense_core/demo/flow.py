"""The demo on one page: start, wait, condense, stop, judge, ask.

Design decisions

* The backends are started by the command lines of the specification, and reached over HTTP by the
  client that everyone else uses.
* A backend that fails does not end the demo: the others are shown, and the failure decides the
  exit code.
* The backends are stopped as soon as both texts are condensed: judging needs the processor.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import neural_condense_core
from neural_condense_core.client.backend import BackendClient
from neural_condense_core.demo.document import Document, neighbour, shipped
from neural_condense_core.demo.narration import Narrator
from neural_condense_core.demo.plan import SubnetPlan
from neural_condense_core.demo.processes import Backend, BackendProcesses, Running, free_port
from neural_condense_core.demo.report import (
    AnsweredQuestion,
    DemoReport,
    MethodRow,
    best_baseline,
)
from neural_condense_core.demo.subnet import LocalSubnet
from neural_condense_core.demo.user import ask_subnet
from neural_condense_core.demo.waiting import wait_until_ready
from neural_condense_core.demo.world import VALIDATOR
from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.llm.base import as_segment
from neural_condense_core.signals import StopSignals

if TYPE_CHECKING:
    from neural_condense_core.demo.measure import AnswerJudge, Variant
    from neural_condense_core.llm.base import Segment, TargetLLM

ROOT = Path(neural_condense_core.__file__).resolve().parent.parent
LAUNCHERS = Path("services/miner_backend/serving")
CONDENSERS = ("icae", "pooled")
PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class DemoSettings:
    """How to run the demo.

    Parameters
    ----------
    target_model : the LLM that reads; None = the embedded one
    ratio : compression ratio that the backends are asked for
    first_port : of the first backend, unless it is taken
    ready_timeout_s : how long the backends may load
    request_timeout_s : how long one request may take
    max_new_tokens : longest answer
    subnet : what the second part plays; None = there is none
    """

    target_model: str | None = None
    ratio: float = 4.0
    first_port: int = 8080
    ready_timeout_s: float = 300.0
    request_timeout_s: float = 120.0
    max_new_tokens: int = 24
    subnet: SubnetPlan | None = None


def specified_backends(target_model: str | None) -> list[Backend]:
    """Return both backends as the specification starts them.

    Parameters
    ----------
    target_model : given to them as a flag; None = their own

    Returns
    -------
    the launchers of the source tree, or ``condense serve`` where only the package is installed
    """
    found = []
    for name in CONDENSERS:
        launcher = LAUNCHERS / f"{name}_app.py"
        if (ROOT / launcher).is_file():
            start = [sys.executable, str(launcher)]
        else:
            start = [sys.executable, "-m", "neural_condense_core.cli", "serve", "--condenser", name]
        flags = ["--port", "{port}", "--devices", "1", "--workers_per_device", "1"]
        if target_model is not None:
            flags += ["--target_model", target_model]
        found.append(Backend(name, (*start, *flags)))
    return found


class Demo:
    """One run.

    Parameters
    ----------
    document : what to condense and ask about
    backends : who condenses it
    settings : how
    console : on stderr
    """

    def __init__(
        self,
        document: Document,
        backends: Sequence[Backend],
        settings: DemoSettings,
        console: Console,
    ) -> None:
        self._document = document
        self._other = neighbour(document)
        self._backends = backends
        self._settings = settings
        self._console = console
        self._urls: dict[str, str] = {}
        self.report = DemoReport(document)
        self._narrator = Narrator(console, self.report.seconds)

    def run(self) -> DemoReport:
        """Run all phases; whatever happens, no process that was started is left."""
        started = time.monotonic()
        with StopSignals():
            self._prepare()
            processes = BackendProcesses(ROOT, package_environment())
            try:
                try:
                    variants = self._condense_all(processes)
                finally:
                    processes.stop()
            finally:  # a signal may have cut the first stop short; there is no second one
                processes.stop()
            target = self._read_all(variants)
            if self._settings.subnet is not None:
                self._play(self._settings.subnet, target)
        self.report.seconds["total"] = time.monotonic() - started
        return self.report

    def _prepare(self) -> None:
        """Fetch the embedded model first, with its progress bar, not twice inside the backends."""
        if self._settings.target_model is None:
            with self._narrator.phase("prepare", "Preparing the target model"):
                from neural_condense_core.llm import embedded

                embedded.model_path()

    def _condense_all(self, processes: BackendProcesses) -> list[Variant]:
        with self._narrator.phase("start", "Starting the backends"):
            for backend in self._backends:
                self._start(processes, backend)
        with self._narrator.phase("ready", "Waiting for the backends"):
            ready = self._wait(processes.running)
        with self._narrator.phase("condense", "Condensing the document"):
            return [variant for each in ready for variant in self._condense(each)]

    def _start(self, processes: BackendProcesses, backend: Backend) -> None:
        wanted = self._settings.first_port + len(processes.running)
        port = free_port(wanted, [each.port for each in processes.running])
        if port != wanted:
            self._narrator.say(f"  port {wanted} is taken; {backend.name} goes to {port}")
        running = processes.start(backend, port)
        self._urls[backend.name] = running.url
        line = [part.replace("{port}", str(port)) for part in backend.argv]
        line[0] = "python" if line[0] == sys.executable else line[0]
        self._narrator.say(f"  $ {' '.join(line)}")
        self._narrator.say(f"    {backend.name} will be at {running.url}")

    def _wait(self, running: Sequence[Running]) -> list[Running]:
        with ExitStack() as stack:
            clients = {each.url: stack.enter_context(BackendClient(each.url)) for each in running}
            found = wait_until_ready(
                running,
                lambda each: clients[each.url].ready(PROBE_TIMEOUT_S),
                self._settings.ready_timeout_s,
                stack.enter_context(self._narrator.progress()),
            )
        for name, seconds in found.ready_s.items():
            self.report.seconds[f"ready {name}"] = seconds
            self._narrator.say(f"  {name} was ready after {seconds:.1f} s")
        for name, why in found.failures.items():
            self._fail(name, why)
        return [each for each in running if each.backend.name in found.ready_s]

    def _condense(self, each: Running) -> list[Variant]:
        from neural_condense_core.demo.measure import condense_over_http

        name, settings = each.backend.name, self._settings
        try:
            with self._console.status(f"{name} is condensing"):
                variant = condense_over_http(
                    name, each.url, self._document, self._other,
                    settings.ratio, settings.request_timeout_s,
                )  # fmt: skip
        except NeuralCondenseError as error:
            self._fail(name, f"{error.message}\n{each.log_tail()}")
            return []
        self._narrator.say(
            f"  {name}: {variant.own.n_condensed_tokens:,} tokens in {variant.ms or 0:,.0f} ms"
        )
        return [variant]

    def _read_all(self, variants: list[Variant]) -> TargetLLM:
        from neural_condense_core.condensers.checkpoints import DEFAULT_TARGET_MODEL
        from neural_condense_core.demo.measure import faults
        from neural_condense_core.llm.hf import load_target

        with self._narrator.phase("load", "Loading the target model"):
            name = self._settings.target_model or DEFAULT_TARGET_MODEL
            target = load_target(name, "cpu", "auto")
        self.report.n_context_tokens = len(target.tokenize(self._document.text))
        valid = []
        for variant in variants:
            wrong = faults(variant, target, self._document)
            if wrong:
                self._fail(variant.name, f"its matrix is not valid: {'; '.join(wrong)}")
            else:
                valid.append(variant)
        self._judge_and_ask(target, valid)
        shown = {row.condenser for row in self.report.backends}
        self.report.backends += [
            MethodRow(name, url) for name, url in self._urls.items() if name not in shown
        ]
        return target

    def _play(self, plan: SubnetPlan, target: TargetLLM) -> None:
        """Play the second part: a subnet of processes, and a user of it."""
        with (
            tempfile.TemporaryDirectory(
                prefix="condense-subnet-", ignore_cleanup_errors=True
            ) as folder,
            LocalSubnet(plan, Path(folder), ROOT, package_environment(), self._narrator) as subnet,
        ):
            self.report.subnet = subnet.report
            try:
                self._play_all(subnet, target)
            except NeuralCondenseError as error:
                subnet.report.failures["subnet"] = error.message
                self._narrator.fail("subnet", error.message)

    def _play_all(self, subnet: LocalSubnet, target: TargetLLM) -> None:
        subnet.prepare([self._document.text, shipped().text, neighbour(shipped()).text])
        if subnet.start() and subnet.play_rounds():
            subnet.settle()
            with self._narrator.phase("subnet: user", "A user asks through the organic API"):
                self._use(subnet, target)
        subnet.read()

    def _use(self, subnet: LocalSubnet, target: TargetLLM) -> None:
        try:
            found = ask_subnet(
                subnet.url(VALIDATOR), subnet.add_user(), self._document, target,
                self._settings.max_new_tokens,
            )  # fmt: skip
        except NeuralCondenseError as error:
            subnet.report.failures["organic"] = error.message
            self._narrator.fail("organic", error.message)
            return
        found["condenser"] = subnet.condenser_of(found["hotkey"])
        subnet.report.organic = found

    def _judge_and_ask(self, target: TargetLLM, valid: Sequence[Variant]) -> None:
        from neural_condense_core.demo import measure

        questions = self._document.questions
        with self._narrator.phase("baselines", "Condensing by the baselines, to as many tokens"):
            baselines = measure.baseline_variants(target, self._document, self._other, valid)
        forms = measure.forms(target, self._document, valid)
        if measure.FULL not in forms:
            self._narrator.say(
                f"  the full text does not fit {target.name}: no R, no C, no answers from it"
            )
        with self._narrator.phase("ask", f"Asking {len(questions)} questions"):
            answers = {name: self._answer(target, name, form) for name, form in forms.items()}
        with self._narrator.phase("judge", "Judging by the answers"):
            golds = measure.fill_golds(questions, answers.get(measure.FULL))
            judge = measure.AnswerJudge(target, self._document, self._other, golds)
            self.report.backends = [self._judge(judge, each) for each in valid]
            self.report.baselines = [self._judge(judge, each) for each in baselines]
        best = best_baseline(self.report.baselines)
        if best is not None:
            with self._narrator.phase(
                "ask baseline", f"Asking the best baseline, {best.condenser}"
            ):
                variant = next(each for each in baselines if each.name == best.condenser)
                answers[variant.name] = self._answer(target, variant.name, as_segment(variant.own))
        self.report.questions = [
            AnsweredQuestion(question, {name: said[i] for name, said in answers.items()})
            for i, question in enumerate(questions)
        ]

    def _judge(self, judge: AnswerJudge, variant: Variant) -> MethodRow:
        with self._console.status(f"judging {variant.name}"):
            recovery, content_recovery = judge.judge(variant)
        return MethodRow(
            variant.name,
            variant.url,
            variant.own.n_condensed_tokens,
            variant.own.nbytes,
            variant.ms,
            recovery,
            content_recovery,
        )

    def _answer(self, target: TargetLLM, name: str, form: Segment | None) -> list[str]:
        from neural_condense_core.demo import measure

        with self._console.status(f"answering from {name}"):
            return measure.answer(
                target, form, self._document.questions, self._settings.max_new_tokens
            )

    def _fail(self, name: str, why: str) -> None:
        self.report.failures[name] = why
        self._narrator.fail(name, why)


def package_environment() -> dict[str, str]:
    """Return the variables by which the launchers of a source tree find the package."""
    others = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), others) if part)}
