import contextlib

import pytest

from neural_condense_core.errors import OverloadedError
from neural_condense_core.wire.places import Places


def test_one_key_has_its_share_and_no_more():
    places = Places(10, 2)
    with places.take("a"), places.take("a"):
        with pytest.raises(OverloadedError, match="this address"), places.take("a"):
            pass
        with places.take("b"):
            pass
    with places.take("a"):
        pass


def test_all_keys_together_are_bounded_and_what_fails_gives_its_place_back():
    places = Places(3, 2)
    with contextlib.ExitStack() as held:
        for key in "abc":
            held.enter_context(places.take(key))
        with pytest.raises(OverloadedError), places.take("d"):
            pass
    for _ in range(5):
        with pytest.raises(KeyError), places.take("a"):
            raise KeyError
    with places.take("a"), places.take("a"), places.take("b"):
        pass
