"""Harm: the share of names that resolved before and don't afterwards, and for how long.

None before a write, and under ten seconds after one, whatever breaks. Everything that answers is
real: CoreDNS, two sidecars, the operator, the API server, an upstream (`harm_lab`).
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab.node import Lab
from tests.operator.conftest import condition, eventually
from tests.operator.harm_lab import POD, SIDECARS, UPSTREAM, HarmLab

pytestmark = [pytest.mark.apiserver, pytest.mark.root]

MOST_SECONDS = 10.0
SYNTHESIZED = "64:ff9b:1::c633:6450"


class Harm(NamedTuple):
    """What was lost."""

    share: float
    seconds: float
    """From the first question that failed to the last."""
    said: set[str]

    @classmethod
    def of(cls, answers: list[tuple[float, str, str, str]]) -> "Harm":
        bad = [row for row in answers if row[3] != "ok"]
        assert len(answers) > 20, "it was hardly asked"
        seconds = max(r[0] for r in bad) - min(r[0] for r in bad) if bad else 0.0
        found = cls(len(bad) / len(answers), seconds, {row[3] for row in bad})
        print(f"harm: {found} of {len(answers)} questions")
        return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HarmLab]:
    with Lab() as nodes:
        running = HarmLab(tmp_path, nodes)
        try:
            yield running
        finally:
            running.stop()
            for log in sorted(tmp_path.glob("*.log")):
                if log.name != "probe.log":
                    print(f"--- {log.name}\n{log.read_text()[-3000:]}")


def reason(lab: HarmLab, type_: str = "Programmed") -> str:
    return condition(lab.api.get("dns64policy", "default"), type_)[1]


def is_wired(lab: HarmLab) -> bool:
    return "[fd00:10:96::" in lab.corefile()


def synthesizes(lab: HarmLab) -> bool:
    ask = (
        "import dns.message, dns.query; print(dns.query.udp(dns.message.make_query("
        f"'v4only.example', 'AAAA'), '{POD}', timeout=30).answer)"
    )
    return SYNTHESIZED in lab.hub.run(sys.executable, "-c", ask, check=False)


def wired(lab: HarmLab) -> None:
    """Start everything and wait until it works."""
    lab.start_operator()
    eventually(lambda: reason(lab) == "Wired", timeout=120, about="wired")
    assert synthesizes(lab)


def test_nothing_is_lost_on_the_way_there_and_back(lab: HarmLab) -> None:
    lab.start()
    lab.apply()
    original = lab.corefile()
    with lab.asking() as answers:
        wired(lab)
        time.sleep(5)
        lab.api.delete("dns64policy", "default")
        eventually(lambda: lab.corefile() == original, about="restored")
        eventually(lambda: lab.api.get("dns64policy", "default") is None, timeout=150)
    assert Harm.of(answers()).share == 0


def test_an_acl_without_coredns_loses_no_name(lab: HarmLab) -> None:
    """The CNI has its own IPAM, and the operator knows another address of CoreDNS than the one that
    it asks from: what isn't known is not answered, and CoreDNS asks on.
    """
    lab.start(coredns_is_known=False)
    lab.apply()
    with lab.asking() as answers:
        lab.start_operator("--confirm-seconds=15")
        eventually(lambda: is_wired(lab), timeout=90, about="written")
        eventually(lambda: reason(lab) == "RolledBack", timeout=90, about="put back")
        time.sleep(3)
    assert not is_wired(lab)
    assert Harm.of(answers()).share == 0


def test_coredns_refused_by_the_sidecars_is_harm_that_ends_at_once(lab: HarmLab) -> None:
    """A policy that denies CoreDNS's own pods, and a kubelet that takes its time with the file."""
    lab.start()
    lab.apply(deniedClients=[f"{POD}/128"])
    with lab.asking() as answers:
        lab.start_operator()
        eventually(lambda: is_wired(lab), timeout=90, about="written")
        eventually(lambda: "[fd00:10:96::" in (lab.folder / "Corefile").read_text())
        lab.kubelet_holds_coredns = True
        eventually(lambda: reason(lab) == "RolledBack", timeout=60, about="put back")
        time.sleep(15)
    found = Harm.of(answers())
    assert found.said <= {"REFUSED", "LifetimeTimeout", "Timeout"}
    assert found.seconds < MOST_SECONDS


@pytest.mark.parametrize("how_many", [1, 2])
def test_dead_sidecars_lose_nothing_that_resolved_without_them(lab: HarmLab, how_many: int) -> None:
    lab.start()
    lab.apply()
    wired(lab)
    with lab.asking() as answers:
        time.sleep(2)
        lab.dead = frozenset(list(SIDECARS)[:how_many])
        for name in lab.dead:
            lab.kill(name)
        time.sleep(12)
    assert Harm.of(answers()).share == 0


NAMES, NAMES_SECONDS = 120, 12.0
"""IPv4-only names, none asked twice, and how long it takes to ask for all."""
NOTICED_SECONDS = 2.0 + 3.0
"""The kubelet's two probes, and what the control plane that is played here takes for the rest."""


@pytest.mark.parametrize(
    ("coredns_on", "dead", "most"),
    [
        pytest.param("n1", "n2", 0.0, id="another-nodes-sidecar"),
        pytest.param("n1", "n1", NOTICED_SECONDS / NAMES_SECONDS, id="its-own-nodes-sidecar"),
        pytest.param("", "n1", NOTICED_SECONDS / NAMES_SECONDS, id="no-PreferSameNode"),
    ],
)
def test_a_dead_sidecar_costs_few_ipv4_only_names_their_address(
    lab: HarmLab, coredns_on: str, dead: str, most: float
) -> None:
    """How many of 120 names come back empty while one of two sidecars dies."""
    lab.coredns_on = coredns_on
    lab.start()
    lab.apply()
    wired(lab)
    eventually(lambda: len(lab.served) == len(SIDECARS), about="both are in the Service")
    ask = (
        "import sys, time, dns.message, dns.query\n"
        f"for number in range({NAMES}):\n"
        "    began = time.time()\n"
        "    query = dns.message.make_query(f'n{number}.v4only.example', 'AAAA')\n"
        f"    reply = dns.query.udp(query, {POD!r}, timeout=5)\n"
        "    print(began, len(reply.answer), reply.rcode(), flush=True)\n"
        f"    time.sleep(max(0, {NAMES_SECONDS / NAMES} - (time.time() - began)))\n"
    )
    log = lab.folder / "names.log"
    with log.open("w") as output:
        process = lab.hub.start(sys.executable, "-c", ask, stdout=output)
        time.sleep(2)
        lab.dead = frozenset([dead])
        lab.kill(dead)
        died = time.time()
        assert process.wait(90) == 0
    rows = [row.split() for row in log.read_text().splitlines()]
    assert len(rows) == NAMES
    assert {row[2] for row in rows} == {"0"}, "NOERROR, all of them"
    empty = [float(row[0]) for row in rows if row[1] == "0"]
    last = max(empty, default=died) - died
    print(f"harm: {len(empty)} of {NAMES} IPv4-only names empty, the last after {last:.1f} s")
    assert len(empty) / NAMES <= most
    assert last < NOTICED_SECONDS


def test_a_sidecar_that_hangs_loses_nothing(lab: HarmLab) -> None:
    lab.start()
    lab.apply()
    wired(lab)
    with lab.asking() as answers:
        time.sleep(2)
        lab.hub.run("kill", "-STOP", str(lab.processes["n1"].pid))
        time.sleep(12)
        lab.hub.run("kill", "-CONT", str(lab.processes["n1"].pid))
    assert Harm.of(answers()).seconds < MOST_SECONDS


def test_sidecars_that_hang_before_the_write_are_not_asked(lab: HarmLab) -> None:
    lab.start()
    lab.apply()
    with lab.asking() as answers:
        lab.start_operator()
        eventually(lambda: len(lab.served) == len(SIDECARS), about="sidecars are ready")
        if not is_wired(lab):
            lab.hub.run("kill", "-STOP", *(str(lab.processes[name].pid) for name in SIDECARS))
            time.sleep(10)
            assert not is_wired(lab) or reason(lab) != "Wired"
            lab.hub.run("kill", "-CONT", *(str(lab.processes[name].pid) for name in SIDECARS))
        eventually(lambda: reason(lab) == "Wired", timeout=90)
    assert Harm.of(answers()).seconds < MOST_SECONDS


def test_a_dead_upstream_is_no_reason_to_take_anything_back(lab: HarmLab) -> None:
    lab.start()
    lab.apply()
    wired(lab)
    text = lab.corefile()
    lab.kill("upstream")
    time.sleep(20)
    lab.start_upstream()
    time.sleep(8)  # servers that were down are probed again
    with lab.asking() as answers:
        time.sleep(8)
    assert Harm.of(answers()).seconds < MOST_SECONDS
    assert lab.corefile() == text
    assert synthesizes(lab)


def test_an_upstream_by_tcp_only_is_asked_by_tcp(lab: HarmLab) -> None:
    lab.hub.run(
        *("nft", "-f", "-"),
        input="table ip6 tcponly {\n chain in {\n type filter hook input priority 0;\n"
        f"ip6 daddr {UPSTREAM} udp dport 53 drop\n}}\n}}\n",
    )
    lab.start(f"{UPSTREAM} {{\n        force_tcp\n    }}")
    lab.apply()
    with lab.asking() as answers:
        wired(lab)
        time.sleep(5)
    assert Harm.of(answers()).share == 0


@pytest.mark.parametrize("operator_too", [False, True])
def test_a_network_policy_between_coredns_and_the_sidecars_loses_nothing(
    lab: HarmLab, operator_too: bool
) -> None:
    hooks = ("forward", "output") if operator_too else ("forward",)
    chains = "".join(
        f"chain {hook} {{\n type filter hook {hook} priority 1;\n udp dport 6464 drop\n"
        "tcp dport 6464 drop\n}\n"
        for hook in hooks
    )
    lab.hub.run("nft", "-f", "-", input=f"table ip6 netpol {{\n{chains}}}\n")
    lab.start()
    lab.apply()
    with lab.asking() as answers:
        lab.start_operator("--confirm-seconds=15")
        expected = "SidecarsUnfit" if operator_too else "RolledBack"
        eventually(lambda: reason(lab) == expected, timeout=120, about=expected)
        time.sleep(3)
    assert not is_wired(lab)
    assert Harm.of(answers()).share == 0


@pytest.mark.parametrize("step", ["recorded", "written", "confirmed", "restored"])
def test_an_operator_that_dies_at_any_step_loses_nothing(lab: HarmLab, step: str) -> None:
    """Killed as soon as the step is seen; its successor goes on from there."""
    lab.start()
    lab.apply()
    original = lab.corefile()
    with lab.asking() as answers:
        lab.start_operator()
        seen = {
            "recorded": lambda: lab.api.get("configmap", "nat64.wiring.default"),
            "written": lambda: is_wired(lab),
            "confirmed": lambda: reason(lab) == "Wired",
            "restored": lambda: reason(lab) == "Wired",
        }[step]
        eventually(seen, timeout=120, about=step)
        if step == "restored":
            lab.api.delete("dns64policy", "default")
            eventually(lambda: lab.corefile() == original, about="restored")
        lab.kill("operator")
        time.sleep(12)
        lab.start_operator()
        if step == "restored":
            eventually(lambda: lab.api.get("dns64policy", "default") is None, timeout=150)
            assert lab.corefile() == original
        else:
            eventually(lambda: reason(lab) == "Wired", timeout=120)
            assert synthesizes(lab)
    assert Harm.of(answers()).share == 0
