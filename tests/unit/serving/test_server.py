from neural_condense_core.constants import TIERS, TierConfig
from neural_condense_core.serving.devices import Placement
from neural_condense_core.serving.server import cpu_notice, tier_lines, worker_specs
from neural_condense_core.serving.settings import ServeSettings


def test_tier_lines_say_met_or_not():
    tiers = {
        "slow": TierConfig("slow", 0.5, 1, 24.0, 100, 1_536),
        "fast": TierConfig("fast", 0.5, 1, 4.0, 100, 4_096),
        "long": TierConfig("long", 0.5, 1, 4.0, 100, 9_000),
    }
    assert tier_lines({1_536: 23_999.0, 4_096: 4_000.0}, tiers) == [
        "tier slow: 1,536 characters take 23,999 ms of 24,000 ms: met",
        "tier fast: 4,096 characters take 4,000 ms of 4,000 ms: NOT MET",
        "tier long: 9,000 characters exceed --max_context_tokens: not met",
    ]


def test_the_cpu_notice_says_what_the_tiers_ask():
    notice = cpu_notice(TIERS)
    assert "CPU" in notice
    assert "research 24 s, inference_0 4 s, inference_1 4 s" in notice


def test_one_spec_a_worker_and_the_tiers_lengths_are_warmed_up():
    settings = ServeSettings("echo", checkpoint="c", target_model="t", ratio=8, dtype="float32")
    first, second = worker_specs(settings, Placement("cuda", ("cuda:0", "cuda:1"), 3))
    assert (first.device, second.device) == ("cuda:0", "cuda:1")
    assert (first.condenser, first.checkpoint, first.target_model) == ("echo", "c", "t")
    assert (first.ratio, first.dtype, first.threads) == (8, "float32", 3)
    assert first.warm_up_chars == (1_536, 4_096)
