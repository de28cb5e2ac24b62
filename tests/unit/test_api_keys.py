"""API keys: hashed, counted, revocable."""

import pytest

from neural_condense_core.api_keys import DAY_S, ApiUsers
from neural_condense_core.errors import ConfigError, OverloadedError, UnauthorizedError

HOTKEY = "5" + "F" * 47


@pytest.fixture
def now():
    return [100.5 * DAY_S]


@pytest.fixture
def users(tmp_path, now):
    with ApiUsers(tmp_path / "keys.sqlite", clock=lambda: now[0]) as opened:
        yield opened


def test_a_key_names_its_user(users):
    user, token = users.add("alice", quota=5)
    assert users.by_token(token) == user
    assert (user.name, user.quota, user.hotkey) == ("alice", 5, None)


def test_only_a_hash_is_kept(users):
    _, token = users.add("alice")
    secret = token.split("_", 2)[-1]
    assert len(secret) > 20
    for path in users.path.parent.iterdir():
        assert secret.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: "", lambda t: "nck_", lambda t: t[:-1], lambda t: t + "A", lambda t: t[:-1] + "!",
        lambda t: t.replace(t[4:16], "0" * 12), lambda t: "x" * 100_000,
        lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"),
    ],
)  # fmt: skip
def test_trap_26_what_is_no_key_is_401(users, spoil):
    _, token = users.add("alice")
    with pytest.raises(UnauthorizedError) as caught:
        users.by_token(spoil(token))
    assert caught.value.status == 401


def test_a_revoked_key_is_401_from_the_next_request_on(users, tmp_path):
    user, token = users.add("alice")
    with ApiUsers(tmp_path / "keys.sqlite") as elsewhere:
        elsewhere.revoke(user.id)
    with pytest.raises(UnauthorizedError):
        users.by_token(token)
    assert [one.revoked_at is None for one in users.all()] == [False]
    with pytest.raises(ConfigError, match="no valid key"):
        users.revoke(user.id)


def test_a_quota_is_a_days(users, now):
    user, _ = users.add("alice", quota=3)
    assert [users.charge(user) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(OverloadedError) as caught:
        users.charge(user)
    assert caught.value.retry_after_s == DAY_S / 2
    assert caught.value.detail["reason"] == "quota"
    now[0] += DAY_S / 2
    assert users.charge(user) == 2


def test_a_quota_survives_a_restart_and_is_each_users_own(users, now):
    alice, _ = users.add("alice", quota=1)
    bob, _ = users.add("bob", quota=1)
    users.charge(alice)
    with ApiUsers(users.path, clock=lambda: now[0]) as again, pytest.raises(OverloadedError):
        again.charge(alice)
    assert users.charge(bob) == 0


def test_a_hotkey_is_admitted_once(users):
    user = users.add_hotkey(HOTKEY, "carol")
    assert users.by_hotkey(HOTKEY) == user
    with pytest.raises(ConfigError, match="admitted already"):
        users.add_hotkey(HOTKEY, "carol")
    users.revoke(user.id)
    assert users.by_hotkey(HOTKEY) is None
    assert users.by_hotkey(users.add_hotkey(HOTKEY, "carol").hotkey) is not None


@pytest.mark.parametrize("wrong", ["", "abc", "0" * 48, "5" * 100])
def test_a_hotkey_must_be_an_address(users, wrong):
    with pytest.raises(ConfigError, match="ss58"):
        users.add_hotkey(wrong, "carol")


@pytest.mark.parametrize(("name", "quota"), [("", 1), ("x" * 65, 1), ("a\nb", 1), ("a", 0)])
def test_names_and_quotas_are_checked(users, name, quota):
    with pytest.raises(ConfigError):
        users.add(name, quota)


def test_a_hotkey_cannot_be_used_as_a_key(users):
    user = users.add_hotkey(HOTKEY, "carol")
    with pytest.raises(UnauthorizedError):
        users.by_token(f"nck_{user.id}_{'A' * 43}")
