"""The property tests in short: an emulator has no time for hypothesis's many examples."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.dataplane import (
    test_clat_random,
    test_program_fuzz,
    test_program_property,
    test_program_raw,
)
from tests.dataplane.clat_bench import Bench
from tests.dataplane.machine import Machine, machine

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def nat() -> Iterator[Machine]:
    with machine() as built:
        yield built


@pytest.mark.parametrize("seed", range(3))
def test_programs_do_what_the_reference_predicts(nat: Machine, seed: int) -> None:
    test_program_property.play(test_program_property.World(nat), Random(seed), 50)


def test_bent_packets_do_no_harm(nat: Machine) -> None:
    test_program_fuzz.feed(nat, Random(1), 100)


def test_raw_packets_become_what_the_reference_predicts(nat: Machine) -> None:
    tun = test_program_raw.Tun(nat)
    world = test_program_property.World(nat, tun)
    test_program_property.play(world, Random(1), 50)
    tun.close()


@pytest.mark.parametrize("direction", ["out", "in"])
def test_the_clat_does_what_the_reference_predicts(direction: str) -> None:
    bench = Bench()
    test_clat_random.play(bench, direction, 1, 200)
    bench.close()
