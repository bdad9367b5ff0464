"""Which links can be advertised on, and what is remembered of what was said there."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from nat64_dataplane.config import Advertise, Config
from nat64_dataplane.translator.advertise.links import LinkLocal, judge
from nat64_dataplane.translator.advertise.record import Record, Told
from nat64_dataplane.translator.advertise.withdrawal import outdated

UP, MULTICAST, CARRIER = 0x1, 0x1000, 0x10000
ALL = UP | MULTICAST | CARRIER
TENTATIVE, DAD_FAILED = 0x40, 0x08
ONE, OTHER = (IPv6Address(f"fe80::{n}") for n in (1, 2))
PREFIX, LAST = IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/96")


@pytest.mark.parametrize(
    ("flags", "addresses", "problem"),
    [
        (ALL, [LinkLocal(ONE)], ""),
        (ALL, [LinkLocal(ONE, TENTATIVE), LinkLocal(OTHER)], ""),
        (UP | CARRIER, [LinkLocal(ONE)], "multicast"),
        (MULTICAST, [LinkLocal(ONE)], "down"),
        (UP | MULTICAST, [LinkLocal(ONE)], "carrier"),
        (ALL, [], "no link-local address"),
        (ALL, [LinkLocal(ONE, TENTATIVE)], "tentative"),
        (ALL, [LinkLocal(ONE, DAD_FAILED)], "another host has it"),
    ],
)
def test_a_link_is_advertised_on_if_it_is_up_and_has_an_address_of_its_own(
    flags: int, addresses: list[LinkLocal], problem: str
) -> None:
    link = judge(7, flags, b"", addresses, None)
    assert problem in link.problem
    assert bool(link.problem) == bool(problem) == (link.source is None)


def test_the_source_stays_the_same_for_as_long_as_it_is_there() -> None:
    newest_first = [LinkLocal(OTHER), LinkLocal(ONE)]
    assert judge(7, ALL, b"", newest_first, None).source == ONE, "the oldest"
    assert judge(7, ALL, b"", newest_first, OTHER).source == OTHER
    assert judge(7, ALL, b"", newest_first, IPv6Address("fe80::3")).source == ONE


def test_the_record_reads_back_and_ends_with_its_last_prefix(tmp_path: Path) -> None:
    record = Record(tmp_path / "default")
    assert record.read() == {}
    told = {"lan0": Told(prefixes=(str(PREFIX),), last=7.5), "lan1": Told(prefixes=())}
    record.write(told)
    assert Record(tmp_path / "default").read() == {"lan0": told["lan0"]}
    record.write({"lan0": Told(prefixes=())})
    assert list((tmp_path / "default").iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"lan0": {"prefixes": ["x"]}}', "\xff"])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "advertised.json").write_text(content, "latin-1")
    assert Record(tmp_path).read() == {}


def test_a_time_that_is_to_come_was_before_the_machine_started() -> None:
    told = Told(prefixes=(), last=100.0)
    assert told.sent_at(101.0) == 100.0
    assert told.sent_at(99.0) is None


def test_outdated_is_what_the_config_no_longer_advertises() -> None:
    told = {
        "lan0": Told(prefixes=(str(PREFIX), str(LAST))),
        "lan1": Told(prefixes=(str(PREFIX),)),
    }
    config = Config(name="a", prefix=PREFIX, advertise=Advertise(interfaces=("lan0", "lan2")))
    assert outdated(told, config) == {"lan0": {LAST}, "lan1": {PREFIX}}
    assert outdated(told, None) == {"lan0": {PREFIX, LAST}, "lan1": {PREFIX}}
    assert outdated({}, config) == {}
