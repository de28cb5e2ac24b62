"""Write docs/pictures: the plots of every report in docs/evaluation, as SVG.

They are those of the page that ``condense eval --from REPORT.json --report PAGE.html`` makes.

    python docs/pictures.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neural_condense_core.console import messages
from neural_condense_core.evaluation.figures import figures_of
from neural_condense_core.evaluation.plots import draw
from neural_condense_core.evaluation.report_file import read_report

DOCS = Path(__file__).resolve().parent
REPORTS = DOCS / "evaluation"
PICTURES = DOCS / "pictures"


def pictures(report: Path) -> Iterator[tuple[str, str]]:
    """Yield file name and content of each plot of a report."""
    for figure in figures_of(read_report(report)):
        for panel in figure.panels:
            name = f"{figure.name}-{panel.name}"
            yield f"{name}.svg", draw(panel, name, alone=True)


def main() -> None:
    """Draw all reports anew; pictures of plots that are no more go."""
    for report in sorted(REPORTS.glob("*.json")):
        folder = PICTURES / report.stem
        folder.mkdir(parents=True, exist_ok=True)
        drawn = dict(pictures(report))
        for name, text in drawn.items():
            (folder / name).write_text(text, encoding="utf-8")
        for path in folder.glob("*.svg"):
            if path.name not in drawn:
                path.unlink()
        messages().print(f"{folder.relative_to(DOCS.parent)}: {len(drawn)} pictures")


if __name__ == "__main__":
    main()
