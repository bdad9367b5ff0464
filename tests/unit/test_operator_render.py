"""What is rendered for a gateway, where a mistake would show only under load."""

import pytest

from nat64_operator.reconcile.drift import covers
from nat64_operator.render.resources import MEBI, add_memory, translator_resources


@pytest.mark.parametrize(
    ("text", "mebi"),
    [("1", 1), ("250m", 1), ("64Mi", 64), ("1.5Gi", 1536), ("2k", 1), ("64e6", 62), ("1E3", 1)],
)
def test_memory_is_added_to_a_quantity_of_any_form(text: str, mebi: int) -> None:
    assert add_memory(text, 0) == f"{mebi}Mi"
    assert add_memory(text, 10 * MEBI) == f"{mebi + 10}Mi"


@pytest.mark.parametrize("text", ["", "much", "1Xi", "Mi", "NaN", "Infinity"])
def test_what_is_no_quantity_stays_as_it_is(text: str) -> None:
    assert add_memory(text, MEBI) == text


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ("64M", "64e6", True),
        ("1", "1000m", True),
        (1, "1", True),
        ("1Gi", "1G", False),
        ("NaN", "NaN ", False),
        ("much", "more", False),
    ],
)
def test_a_quantity_is_the_same_in_any_form(live: object, wanted: str, same: bool) -> None:
    assert covers({"memory": live}, {"memory": wanted}) is same


def test_a_translators_memory_grows_with_its_sessions() -> None:
    given = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "192Mi"}}
    made = translator_resources(given, 1_048_576)
    assert made == {"requests": {"cpu": "20m", "memory": "112Mi"}, "limits": {"memory": "592Mi"}}
    assert given["limits"] == {"memory": "192Mi"}


def test_no_limit_stays_no_limit() -> None:
    assert translator_resources({}, 1_048_576) == {}
    assert translator_resources({"limits": {"cpu": "1"}}, 1024) == {"limits": {"cpu": "1"}}
