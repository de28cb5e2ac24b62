"""What the documents claim is so: generated parts, links, paths, make targets."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neural_condense_core.constants import tier_table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in [
        *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "services").rglob("*.md"),
        *(ROOT / "neural_condense_core").rglob("*.md"),
    ]
)  # fmt: skip
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(
    r"(?:neural_condense_core|services|docs|tests|benchmarks|runs|requirements)/[\w./-]*"
)
STANDS_FOR_A_NAME = re.compile(r"\b(?:NAME|METHOD|FILE)\b")
MAKE_TARGET = re.compile(r"\bmake ([a-z][a-z0-9-]*)")


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(path: Path) -> set[str]:
    lines = FENCE.sub("", path.read_text(encoding="utf-8")).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_documents_are_there():
    names = {str(path) for path in DOCUMENTS}
    assert {"README.md", "docs/architecture.md", "docs/decisions.md"} <= names


def test_readme_holds_the_tiers_and_the_tree_of_today():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tier_table() in readme
    assert load_generator().render(readme) == readme, "run 'make readme'"


def test_the_check_notices_a_change(tmp_path):
    generator = load_generator()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = readme.replace("| research | 0.5 |", "| research | 0.6 |")
    assert changed != readme
    assert generator.render(changed) == generator.render(readme) != changed
    with pytest.raises(ValueError, match="tiers"):
        generator.render("no markers")


def test_every_file_in_the_tree_says_what_it_is():
    tree = load_generator().file_tree().splitlines()
    silent = [line for line in tree if line.endswith((".py", ".md", ".toml"))]
    assert silent == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    broken = []
    for link in LINK.findall(FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / document).parent / target if target else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_paths_in_the_text_exist(document):
    text = FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
    spans = [span for span in CODE_SPAN.findall(text) if not STANDS_FOR_A_NAME.search(span)]
    paths = [span for span in spans if REPOSITORY_PATH.fullmatch(span)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_make_targets_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    code = "\n".join([*FENCE.findall(text), *CODE_SPAN.findall(FENCE.sub("", text))])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    assert set(MAKE_TARGET.findall(code)) - targets == set()


def test_generator_checks_from_the_command_line():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
