"""Names to lazily imported classes."""

from __future__ import annotations

import sys

import pytest

from neural_condense_core.errors import ConfigError, UnknownNameError
from neural_condense_core.registry import Registry, import_target, suggest

REGISTRY: Registry[type] = Registry("thing", {"ordered": "collections:OrderedDict"})


def test_a_name_and_a_target_give_the_class() -> None:
    assert REGISTRY.get("ordered").__name__ == "OrderedDict"
    assert REGISTRY.get("collections:Counter").__name__ == "Counter"
    assert REGISTRY.names() == ["ordered"]


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown thing 'orderd'\. Did you mean 'ordered'"):
        REGISTRY.get("orderd")
    assert suggest("zzz", ["ordered"]) == ""


@pytest.mark.parametrize(
    "target", [":X", ".x:Y", "a b:c", "no_such_module:X", "collections:NoSuchClass", "collections:"]
)
def test_what_cannot_be_imported_is_a_configuration_error(target: str) -> None:
    with pytest.raises(ConfigError):
        import_target(target)


def test_listing_imports_nothing() -> None:
    sys.modules.pop("wave", None)
    registry: Registry[type] = Registry("thing", {"wave": "wave:Wave_read"})
    assert registry.targets() == {"wave": "wave:Wave_read"}
    assert "wave" not in sys.modules
