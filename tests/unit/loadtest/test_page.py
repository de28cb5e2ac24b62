"""The page stands alone, escapes what came from outside, and shows what the JSON holds."""

import json
import re
from html.parser import HTMLParser

import pytest

from neural_condense_core.constants import TIERS
from neural_condense_core.loadtest.figures import figures_of
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.page import to_html
from neural_condense_core.loadtest.plan import Plan, Report, Subject
from neural_condense_core.loadtest.search import Knee

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "path", "use", "rect", "circle", "br"}


def outcomes(n, n_bad=0):
    return tuple(
        Outcome(i * 60 / n, "http_503", 0.001, 0.01)
        if i < n_bad
        else Outcome(i * 60 / n, "ok", 0.001, 0.2 + i / 1000, 900, 12, 0.01, 0.1)
        for i in range(n)
    )


def report(n_bad=0, knee=True, n=100):
    tier = TIERS["inference_0"]
    done = outcomes(n, n_bad)
    figures = figures_of(done, n / 60, 60.0, tier.timeout_s)
    steps = (figures, figures_of(outcomes(50, 50), 20.0, 10.0, tier.timeout_s))
    return Report(
        Plan("http://127.0.0.1:1", tier, n / 60, 5, finds_max=knee),
        Subject("/condense", "m", 8, EVIL),
        figures,
        done,
        Knee(n / 60, steps, "found") if knee else None,
        ("a note",),
        {"processor": EVIL, "cores": 2},
        "2026-01-01T00:00:00+00:00",
    )


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize(("n_bad", "verdict"), [(0, "PASS"), (100, "FAIL")])
@pytest.mark.parametrize("knee", [True, False])
def test_the_page_stands_alone(n_bad, verdict, knee):
    page = to_html(report(n_bad, knee))
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert "script" not in tags.seen
    assert EVIL not in page
    assert re.findall(r"""(?:src|href)=["'](?!#)""", page) == []
    assert re.findall(r"url\((?!#)", page) == []
    assert f"<title>{verdict}:" in page
    assert tags.seen.count("svg") == 1 + (n_bad == 0) + 2 * knee
    assert "prefers-color-scheme: dark" in page
    assert "#0a0b" not in page


def test_a_long_run_is_thinned():
    assert len(to_html(report(n=30_000))) < 600_000


def test_the_json_holds_the_names_of_the_specification():
    found = report(n_bad=1).as_json()
    assert list(found)[:11] == [
        "verdict", "offered_rps", "achieved_rps", "goodput_rps", "p50_s", "p90_s", "p95_s",
        "p99_s", "max_s", "errors", "max_good_rps",
    ]  # fmt: skip
    assert found["verdict"] == "PASS"
    assert found["errors"] == {"http_503": 1}
    assert found["max_good_rps"] == 100 / 60
    assert [each["is_good"] for each in found["search"]["steps"]] == [True, False]
    json.dumps(found, allow_nan=False)


def test_nothing_good_is_null_and_not_zero():
    found = report(n_bad=100, knee=False).as_json()
    assert (found["verdict"], found["p50_s"], found["max_s"]) == ("FAIL", None, None)
    assert (found["max_good_rps"], found["search"]) == (None, None)
    assert found["goodput_rps"] == 0
    assert found["faults"]
