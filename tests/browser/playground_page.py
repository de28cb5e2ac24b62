"""The playground under test: how it is served, and what a person does on it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from backend_process import ROOT, Server

HERE = Path(__file__).parent
COMMAND = ("-m", "neural_condense_core.cli", "gateway")
STEPPED = "playground_engine:SteppedCondenser"
FLAGS = (
    "--engine", "playground_engine:open_strip", "--target", "toy", "--condenser", "echo",
    "--also", STEPPED, "--floor", "0", "--requests_per_minute", "9999",
)  # fmt: skip
PATHS = os.pathsep.join(map(str, [ROOT, HERE.parent / "integration", HERE]))
TEXT = "the axe exists! " * 40
ASKED = "Answer with a few words from the text. why?"


def serve(*more):
    """Start a gateway over the toy engine; wait until it answers."""
    return Server(*FLAGS, *more, command=COMMAND, environment={"PYTHONPATH": PATHS}).ready()


def said(page, text):
    page.locator("#status", has_text=re.compile(f"^{text}$")).wait_for()


def condense(page, text=TEXT):
    page.get_by_label("Paste a text").fill(text)
    page.get_by_role("button", name="Condense", exact=True).click()
    said(page, "done")


def ask(page, question="why?", longest="1000"):
    page.get_by_label("Longest answer").fill(longest)
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask three ways").click()


def answer(page, key):
    return page.locator(f"#answer-{key} .answer").inner_text()


def facts(page):
    names, values = page.locator("#sizes dt"), page.locator("#sizes dd")
    return dict(zip(names.all_inner_texts(), values.all_inner_texts(), strict=True))
