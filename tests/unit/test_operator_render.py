"""What is rendered for a gateway, where a mistake would show only under load."""

import pytest

from nat64_operator.render import quantity
from nat64_operator.render.gateway import translator_resources


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("250m", 0.25), ("64Mi", 64 << 20), ("1.5Gi", 3 << 29), ("2k", 2000)],
)
def test_quantities_are_read(text: str, value: float) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "much", "1 Mi", "-1", "1e3"])
def test_what_is_no_quantity_is_not(text: str) -> None:
    assert quantity.parse(text) is None


def test_a_translators_memory_grows_with_its_sessions() -> None:
    given = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "192Mi"}}
    made = translator_resources(given, 1_048_576)
    assert made == {"requests": {"cpu": "20m", "memory": "112Mi"}, "limits": {"memory": "592Mi"}}
    assert given["limits"] == {"memory": "192Mi"}


def test_no_limit_stays_no_limit() -> None:
    assert translator_resources({}, 1_048_576) == {}
    assert translator_resources({"limits": {"cpu": "1"}}, 1024) == {"limits": {"cpu": "1"}}
