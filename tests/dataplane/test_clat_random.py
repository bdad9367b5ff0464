"""The CLAT's programs do what the plain Python reference predicts, byte for byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from tests.dataplane import clat_bench
from tests.dataplane.clat_bench import POD, PREFIX, Bench
from tests.dataplane.reference.clat import Clat
from tests.dataplane.reference.headers import Refused
from tests.dataplane.reference.stateless import Outcome
from tests.dataplane.test_program_property import blank_id, without_padding

pytestmark = pytest.mark.root

REFERENCE = Clat(PREFIX, POD)
SLICES, LONG_SLICES = 4, 40
SLICE = 2_500

EVERY_END = {
    "out": {
        "translated",
        "destination_special",
        "fragment_unexpected",
        "icmp_ends_differ",
        "icmp_fragment",
        "icmp_inner_malformed",
        "icmp_type",
        "malformed",
        "source_illegal",
        "source_route",
        "truncated",
        "udp_zero_checksum_fragment",
        "unknown_transport",
    },
    "in": {
        "translated",
        "passed",
        "extension_after_fragment",
        "extension_chain",
        "fragment_unexpected",
        "icmp_fragment",
        "icmp_inner_malformed",
        "icmp_type",
        "icmp_without_session",
        "routing_header",
        "source_illegal",
        "truncated",
        "unknown_transport",
    },
}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    built = Bench()
    yield built
    built.close()


def agree(
    run: Callable[[bytes], clat_bench.Out], predict: Callable[[bytes], Outcome], packet: bytes
) -> tuple[str, bytes]:
    """Both sides' word on a packet: its end, and what came of it if it was translated."""
    got = run(packet)
    expected, reason = None, "translated"
    try:
        expected = predict(packet)
    except Refused as refused:
        reason = refused.reason
    assert got.end == reason, packet.hex()
    if expected is None:
        return reason, b""
    came, wanted = without_padding(got.packet), expected.packet
    assert got.kind == (0x86DD if wanted[0] >> 4 == 6 else 0x0800)
    if expected.free_id:
        came, wanted = blank_id(came), blank_id(wanted)
    assert came.hex() == wanted.hex(), packet.hex()
    return "translated", without_padding(got.packet)


def play(bench: Bench, direction: str, seed: int, count: int) -> Counter[str]:
    """Send random packets one way, and errors about what went the other way."""
    rng = Random(f"{direction} {seed}")
    ends: Counter[str] = Counter()
    about: list[bytes] = []
    while ends.total() < count:
        if len(about) < 20:  # what errors may be about
            make = clat_bench.to_pod if direction == "out" else clat_bench.from_pod
            run, predict = (
                (bench.in_, REFERENCE.in_) if direction == "out" else (bench.out, REFERENCE.out)
            )
            _, came = agree(run, predict, make(rng))
            about += [came] if came else []
            continue
        if direction == "out":
            packet = (
                clat_bench.error_from_pod(rng, rng.choice(about))
                if rng.random() < 0.3
                else clat_bench.from_pod(rng)
            )
            end, _ = agree(bench.out, REFERENCE.out, packet)
        else:
            packet = (
                clat_bench.error_to_pod(rng, rng.choice(about))
                if rng.random() < 0.3
                else clat_bench.to_pod(rng)
            )
            end, _ = agree(bench.in_, REFERENCE.in_, packet)
        ends[end] += 1
        if rng.random() < 0.1:
            about.pop(0)
    return ends


def play_slices(bench: Bench, direction: str, slices: int) -> Counter[str]:
    """Each slice has a seed of its own, which is enough to see a failure again."""
    ends = Counter[str]()
    for seed in range(slices):
        ends += play(bench, direction, seed, SLICE)
    return ends


@pytest.mark.parametrize("direction", ["out", "in"])
def test_programs_do_what_the_reference_predicts(bench: Bench, direction: str) -> None:
    """And the packets come to every end that the generator is meant to lead them to."""
    assert play_slices(bench, direction, SLICES).keys() >= EVERY_END[direction]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["out", "in"])
def test_programs_do_what_the_reference_predicts_a_hundred_thousand_times(
    bench: Bench, direction: str
) -> None:
    assert play_slices(bench, direction, LONG_SLICES).total() == 100_000
