"""The cluster's DNS is never worse with us than without us: what is asked before a Corefile is
written, what ends harm after it, and what is watched for as long as it is wired.
"""

from typing import Any

import pytest

from nat64_operator.coredns.confirmation import MOST_RETRY_SECONDS
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from tests.unit.operator_simulation import COREFILE, NAMESPACE, SETTINGS, Simulation

MODES = ("Forward", "Import", "Plugin")
SERVICE = Ref("Service", "nat64-default-dns", NAMESPACE)


def made(mode: str = "Forward", **core_dns: Any) -> Simulation:
    simulation = Simulation()
    if mode == "Import":
        simulation.write_corefile(
            COREFILE.replace("    forward", "    import custom/*.override\n    forward")
        )
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default", coreDNS={"mode": mode, **core_dns})
    return simulation


def run(simulation: Simulation, steps: int) -> None:
    for _ in range(steps):
        simulation.step()


def wired(simulation: Simulation) -> bool:
    said = str((simulation.corefile, simulation.custom_files))
    return "[fd00:" in said or "dns64" in said


def programmed(simulation: Simulation) -> tuple[str, str, str]:
    return simulation.condition("DNS64Policy", "default", "Programmed")


def test_coredns_own_pods_may_ask_whatever_range_they_are_of() -> None:
    simulation = made()
    simulation.dns_clients = frozenset({"2001:db8:77::53", "fd00:99::7"})
    simulation.settle()
    clients = simulation.owned[Ref("ConfigMap", names.CLIENTS, NAMESPACE)]["data"]["clients"]
    assert "allow net 2001:db8:77::53/128" in clients
    assert "allow net fd00:99::7/128" in clients
    assert clients.rstrip().endswith("drop\n}"), "CoreDNS hands REFUSED on, and asks on after none"


@pytest.mark.parametrize("mode", ["Forward", "Import"])
def test_nothing_is_written_while_the_sidecars_would_not_do_for_coredns(mode: str) -> None:
    simulation = made(mode)
    simulation.unfit = "the sidecars answer REFUSED"
    before = simulation.text()
    run(simulation, 60)
    assert not wired(simulation)
    assert simulation.text() == before
    status, reason, message = programmed(simulation)
    assert (status, reason) == ("False", "SidecarsUnfit")
    assert "the sidecars answer REFUSED" in message
    simulation.unfit = ""
    run(simulation, 15)
    assert wired(simulation)


def test_what_coredns_asks_itself_needs_no_sidecar() -> None:
    simulation = made("Plugin")
    simulation.unfit = "the sidecars answer REFUSED"
    run(simulation, 15)
    assert wired(simulation)


@pytest.mark.parametrize("mode", ["Forward", "Import"])
def test_harm_after_a_write_ends_within_seconds(mode: str) -> None:
    simulation = made(mode)
    simulation.harms = True
    before = simulation.text(), simulation.custom_files
    written = restored = 0.0
    for _ in range(40):
        simulation.step()
        if wired(simulation) and not written:
            written = simulation.now
        if written and not wired(simulation):
            restored = simulation.now
            break
    assert written
    assert restored
    assert restored - written < 10
    assert simulation.text() == before[0]
    simulation.step()
    assert programmed(simulation)[:2] == ("False", "RolledBack")
    assert "names that resolved before did not" in programmed(simulation)[2]
    # CoreDNS takes minutes to read the file: till then it gets no answer that it would hand on.
    simulation.step()
    assert names.WITHDRAWN_LABEL in simulation.owned[SERVICE]["spec"]["selector"]
    simulation.now += SETTINGS.confirm_seconds
    run(simulation, 2)
    assert names.WITHDRAWN_LABEL not in simulation.owned[SERVICE]["spec"]["selector"]


def test_status_says_whether_the_kubelet_or_reload_is_waited_for() -> None:
    simulation = made()
    simulation.write_corefile(COREFILE.replace("reload", "reload 20s 4s"))
    simulation.synthesizes = False
    run(simulation, 15)
    assert wired(simulation)
    assert "waiting for the kubelet" in programmed(simulation)[2]
    assert "reads it within 24 s" in programmed(simulation)[2]
    simulation.now += 121
    run(simulation, 1)
    assert programmed(simulation)[1] == "Confirming"
    assert "waiting for CoreDNS's `reload`, which looks every 24 s" in programmed(simulation)[2]
    assert "waiting for the kubelet" not in programmed(simulation)[2]


def test_retries_take_twice_as_long_each_time_up_to_a_day() -> None:
    simulation = made()
    simulation.harms = True
    gaps = []
    for _ in range(10):
        while not wired(simulation):
            plan = simulation.step()
            if plan.wake and plan.wake > 30:
                simulation.now += plan.wake - 1
        begun = simulation.now
        while wired(simulation):
            simulation.step()
        run(simulation, 2)
        plan = simulation.step()
        gaps.append(plan.wake or 0)
        assert simulation.now - begun < 10
    for at, gap in enumerate(gaps):
        expected = min(SETTINGS.retry_seconds * 2**at, MOST_RETRY_SECONDS)
        assert expected - 20 < gap <= expected


def test_a_changed_corefile_is_tried_at_once() -> None:
    simulation = made()
    simulation.harms = True
    run(simulation, 15)
    assert programmed(simulation)[1] == "RolledBack"
    assert not wired(simulation)
    simulation.harms = False
    simulation.write_corefile("# mended\n" + simulation.text())
    run(simulation, 8)
    assert wired(simulation)
    assert programmed(simulation)[:2] == ("True", "Wired")


def test_what_failed_before_the_write_is_not_our_harm() -> None:
    simulation = made()
    simulation.fails = "SERVFAIL"
    run(simulation, 20)
    assert wired(simulation)


@pytest.mark.parametrize("mode", MODES)
def test_a_wired_corefile_is_watched_and_status_says_what_is_true_now(mode: str) -> None:
    simulation = made(mode)
    simulation.settle()
    assert programmed(simulation)[:2] == ("True", "Wired")
    simulation.synthesizes = False
    asked = 0
    for _ in range(75):
        asked += len(simulation.step().questions)
    assert programmed(simulation)[:2] == ("False", "NotSynthesizing")
    assert simulation.condition("DNS64Policy", "default", "Ready")[0] == "False"
    assert wired(simulation), "it does no harm, and it worked before"
    assert 1 <= asked < 30, "not with every pass"
    simulation.synthesizes = True
    run(simulation, 15)
    assert programmed(simulation)[:2] == ("True", "Wired")
    assert simulation.condition("DNS64Policy", "default", "Ready")[0] == "True"


def test_an_upstream_that_is_away_is_said_and_takes_nothing_back() -> None:
    simulation = made()
    simulation.settle()
    simulation.fails = "SERVFAIL"
    run(simulation, 75)
    assert programmed(simulation)[:2] == ("False", "UpstreamsFail")
    assert wired(simulation)
    simulation.fails = ""
    run(simulation, 15)
    assert programmed(simulation)[:2] == ("True", "Wired")


def test_harm_long_after_the_confirmation_ends_as_well() -> None:
    simulation = made()
    simulation.settle()
    simulation.now += 7 * 86400
    simulation.harms = True
    run(simulation, 75)
    assert not wired(simulation)
    assert programmed(simulation)[1] == "RolledBack"
    assert simulation.text() == COREFILE


@pytest.mark.parametrize("mode", ["Forward", "Import"])
def test_a_second_bad_answer_takes_back_what_has_worked_and_a_single_one_does_not(
    mode: str,
) -> None:
    simulation = made(mode)
    simulation.settle()
    text, custom = simulation.text(), simulation.custom_files
    for _ in range(3):  # one bad answer each, with good ones between them
        simulation.now += 120
        simulation.harms = True
        while not simulation.step().questions:
            pass
        simulation.harms = False
        run(simulation, 40)
        assert (simulation.text(), simulation.custom_files) == (text, custom)
        assert programmed(simulation)[:2] == ("True", "Wired")
    simulation.now += 120
    simulation.harms = True
    while not simulation.step().questions:
        pass
    seen = simulation.now
    while wired(simulation):
        simulation.step()
    assert simulation.now - seen < 10
    run(simulation, 1)
    assert programmed(simulation)[1] == "RolledBack"


def test_fail_is_written_only_after_coredns_has_answered_with_a_way_out() -> None:
    simulation = made(failMode="Fail")
    seen: list[str] = []
    for _ in range(20):
        simulation.step()
        line = next(row for row in simulation.text().splitlines() if "forward ." in row).strip()
        if not seen or seen[-1] != line:
            seen.append(line)
    assert [("[fd00:" in line, "/etc/resolv.conf" in line) for line in seen] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert programmed(simulation)[:2] == ("True", "Wired")
    simulation.delete("DNS64Policy", "default")
    simulation.settle()
    assert simulation.text() == COREFILE


def test_sidecars_that_coredns_still_asks_keep_their_upstreams_though_the_policy_goes() -> None:
    simulation = Simulation()
    simulation.write_corefile(COREFILE.replace("/etc/resolv.conf", "2001:db8::53"))
    simulation.create("NAT64Gateway", "default")
    simulation.create("DNS64Policy", "default")
    simulation.settle()
    place = Ref("ConfigMap", names.sidecar_config("default", SETTINGS.dataplane_image), NAMESPACE)
    simulation.lags = True  # CoreDNS goes by what it read before
    simulation.delete("DNS64Policy", "default")
    run(simulation, 20)
    assert not wired(simulation)
    assert "forward . 2001:db8::53" in simulation.owned[place]["data"]["Corefile"]
    simulation.lags = False
    simulation.settle()
    simulation.now += 1000
    simulation.settle()
    assert "forward . /etc/resolv.conf" in simulation.owned[place]["data"]["Corefile"]
