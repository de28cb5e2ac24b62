"""Write the generated parts of README.md: the tier table and the annotated file tree.

``python docs/generate.py`` rewrites them; with ``--check`` it changes nothing and exits 1 when they
are out of date. Each part stands between ``<!-- name -->`` and ``<!-- /name -->``.

Design decisions

* A file's line is the first line of its own docstring, heading or comment, so a description has one
  home and cannot drift.
* Folders of tests are one line each: they mirror the package.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from neural_condense_core.constants import tier_table

ROOT = Path(__file__).resolve().parent.parent

ROOT_FILES = {
    "Makefile": "Every command of a developer: `make help`.",
    "pyproject.toml": "Package metadata, dependencies, settings of ruff, mypy and pytest.",
    "mkdocs.yml": "The site that `make docs` builds.",
    ".importlinter": "Which package may import which.",
    "ecosystem.config.js": "The miner node under pm2.",
    "requirements/constraints.txt": "The exact versions that `make setup` installs.",
}
TEST_FOLDERS = {
    "unit": "One module at a time; mirrors the package.",
    "conformance": "One suite a seam, run on everything that claims to fit it.",
    "integration": "Several parts together, over real HTTP on loopback.",
    "e2e": "The documented command lines, as subprocesses.",
    "ray": "Serving and bulk condensing on a real Ray cluster; `make test-ray`.",
    "golden": "Known bytes and numbers that the code must reproduce.",
    "architecture": "Import times, sizes, names, and what the documents claim.",
    "docs": "The code blocks of the documents, executed; `make test-docs`.",
}
SKIPPED = {"__init__.py", "py.typed", "__pycache__"}


def first_line(path: Path) -> str:
    """Return the line that describes a file or folder, an empty string where there is none."""
    if path.is_dir():
        return first_line(path / "__init__.py") if (path / "__init__.py").is_file() else ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0].replace("``", "`")
    return next((line.lstrip("# ") for line in text.splitlines() if line.startswith("#")), "")


def _rows(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    # A package's modules stand before its sub-packages.
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.name in SKIPPED or path.name.startswith("."):
            continue
        indent = "  " * depth
        if path.is_dir() and any(path.rglob("*.py")):
            yield f"{indent}{path.name}/", first_line(path)
            yield from _rows(path, depth + 1)
        elif path.suffix == ".py":
            yield f"{indent}{path.name}", first_line(path)


def _documents(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob(pattern)):
        yield f"  {path.relative_to(folder)}", first_line(path)


def file_tree() -> str:
    """Return the annotated file tree, in a code block."""
    rows: list[tuple[str, str]] = []
    for name in ("neural_condense_core", "neurons", "services", "benchmarks"):
        rows += [(f"{name}/", first_line(ROOT / name)), *_rows(ROOT / name, 1)]
    rows += [("deploy/", "pm2, systemd, containers: docs/deploy.md.")]
    rows += [("runs/", "Training recipes."), *_documents(ROOT / "runs", "*.toml")]
    rows += [("docs/", ""), *_documents(ROOT / "docs", "*.md"), *_rows(ROOT / "docs", 1)]
    rows += [("tests/", "")]
    rows += [(f"  {name}/", text) for name, text in TEST_FOLDERS.items()]
    rows += list(ROOT_FILES.items())
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([
        "```text",
        *(f"{name:<{width}}{text}".rstrip() for name, text in rows),
        "```",
    ])


PARTS: dict[str, Callable[[], str]] = {"tiers": tier_table, "tree": file_tree}


def render(readme: str) -> str:
    """Return a README's text with every generated part written anew.

    Parameters
    ----------
    readme : the text with the markers in it

    Raises
    ------
    ValueError
        A pair of markers is missing.
    """
    for name, make in PARTS.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
        block = f"{opening}\n{make()}\n{closing}"
        readme, n_found = pattern.subn(block.replace("\\", r"\\"), readme)
        if n_found != 1:
            raise ValueError(f"README.md must hold {opening} ... {closing} once, found {n_found}")
    return readme


def main(arguments: list[str]) -> int:
    """Rewrite README.md, or with ``--check`` say whether that would change it."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = render(before)
    if "--check" in arguments:
        if before != after:
            sys.stderr.write("README.md is out of date: run 'make readme'\n")
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
