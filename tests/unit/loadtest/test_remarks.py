"""What stands out is said, and nothing else."""

from dataclasses import replace

import pytest

from neural_condense_core.constants import TIERS
from neural_condense_core.loadtest.figures import figures_of
from neural_condense_core.loadtest.generator import Outcome
from neural_condense_core.loadtest.plan import Plan, Subject
from neural_condense_core.loadtest.remarks import remarks
from neural_condense_core.loadtest.search import Knee

TIER = TIERS["inference_0"]
PLAN = Plan("http://127.0.0.1:1", TIER, 2.0, 1)
SUBJECT = Subject("/condense", TIER.target_model, 4096, None)


def figures(n=120, **changes):
    done = [replace(Outcome(i / 2, "ok", 0.0, 0.1), **changes) for i in range(n)]
    return figures_of(done, 2.0, n / 2, TIER.timeout_s)


def test_a_plain_run_needs_no_remark():
    assert list(remarks(PLAN, SUBJECT, figures(), None)) == []
    assert list(remarks(PLAN, SUBJECT, figures(), Knee(2.0, (), "found"))) == []


@pytest.mark.parametrize(
    ("subject", "found", "knee", "said"),
    [
        (replace(SUBJECT, target_model="m"), figures(), None, "asks for Condense-AI/Mistral"),
        (replace(SUBJECT, hidden_size=None), figures(), None, "--hidden_size"),
        (SUBJECT, figures(lag_s=0.5), None, "the load generator was late itself, by 0.50 s"),
        (SUBJECT, figures(code="unchecked"), None, "--accept"),
        (SUBJECT, figures(is_cached=True), None, "120 replies came from the backend's cache"),
        (SUBJECT, figures(n=20), None, "20 requests tell little"),
        (SUBJECT, figures(), Knee(2.0, (), "generator"), "own limit"),
        (SUBJECT, figures(), Knee(None, (), "nothing"), "not even the lowest"),
    ],
)
def test_what_stands_out_is_said(subject, found, knee, said):
    (remark,) = remarks(PLAN, subject, found, knee)
    assert said in remark
