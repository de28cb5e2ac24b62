"""Who may ask: keys, rates and quotas, and names that lead to a machine from outside."""

from __future__ import annotations

import pytest
from gateway_fakes import World

from neural_condense_core.api_keys import ApiUsers

QUESTION = [{"role": "user", "content": "why?"}]


@pytest.fixture
def users(tmp_path):
    with ApiUsers(tmp_path / "keys.sqlite") as found:
        yield found


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8100", 200), ("localhost:8100", 200), ("[::1]:8100", 200), ("127.8.0.1", 200),
        ("evil.example:8100", 403), ("10.0.0.1:8100", 403), ("localhost.evil.example", 403),
        ("[::1", 403), ("", 403),
    ],
)  # fmt: skip
def test_without_keys_only_loopback_names_lead_in(world, host, status):
    """A page whose name was made to lead here is of the same origin as its requests."""
    headers = {"host": host, "origin": f"http://{host}"}
    assert world.chat(QUESTION, headers=headers).status_code == status
    assert world.ask("GET", "/v1/contexts", headers={"host": host}).status_code == status
    assert world.ask("GET", "/health/live", headers={"host": host}).status_code == 200


def test_with_keys_any_name_leads_in(users):
    _, key = users.add("ann", quota=10)
    headers = {"host": "gateway.example", "authorization": f"Bearer {key}"}
    assert World(users).chat(QUESTION, headers=headers).status_code == 200


def test_what_is_over_the_rate_costs_no_quota(users):
    _, key = users.add("ann", quota=5)
    world = World(users, requests_per_minute=2)
    headers = {"authorization": f"Bearer {key}"}
    found = [world.chat(QUESTION, headers=headers).status_code for _ in range(8)]
    assert found == [200, 200, *[429] * 6]
    world.now += 61.0
    assert world.chat(QUESTION, headers=headers).status_code == 200
