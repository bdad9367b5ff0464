"""The TCP state machine of RFC 6146 section 3.5.2.2, transition by transition, with its timers."""

from __future__ import annotations

import threading

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.translator.datapath.datapath import Session
from tests.dataplane.machine import MAC, OTHER, POD, POOL, SERVER, Machine, Out, at, spare

pytestmark = pytest.mark.root

ESTABLISHED, TRANSITORY = 7440, 240


class Flow:
    """One connection; `6S` is a SYN from the pod, `4FA` a FIN-ACK from the server."""

    def __init__(self, nat: Machine) -> None:
        self.nat = nat
        self.port = 0

    def packet(self, text: str) -> Out:
        side, flags = text[0], text[1:]
        if side == "6":
            out = self.nat.from_pod(
                IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=80, flags=flags)
            )
            if out.translated:
                self.port = out.packet.sport
            return out
        return self.nat.from_internet(
            IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=80, dport=self.port, flags=flags)
        )

    def play(self, text: str) -> Session:
        for step in text.split():
            assert self.packet(step).translated, step
        return self.session

    @property
    def session(self) -> Session:
        (only,) = [s for s in self.nat.datapath.sessions() if s.remote_port == 80]
        return only


@pytest.fixture
def flow(shared: Machine) -> Flow:
    shared.reset()
    return Flow(shared)


PATHS = [
    ("6S", "V6_INIT", TRANSITORY),
    ("6S 6S", "V6_INIT", TRANSITORY),
    ("6S 4RA", "V6_INIT", TRANSITORY),
    ("6S 4A", "V6_INIT", TRANSITORY),
    ("6S 4SA", "ESTABLISHED", ESTABLISHED),
    ("6S 4S", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6A 4PA", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6A 4FA", "V4_FIN", ESTABLISHED),
    ("6S 4SA 6A 6FA", "V6_FIN", ESTABLISHED),
    ("6S 4SA 6A 4FA 6A", "V4_FIN", ESTABLISHED),
    ("6S 4SA 6A 4FA 6FA", "BOTH_FIN", TRANSITORY),
    ("6S 4SA 6A 6FA 4FA", "BOTH_FIN", TRANSITORY),
    ("6S 4SA 6A 6FA 4FA 6A 4A", "BOTH_FIN", TRANSITORY),
    ("6S 4SA 6R", "TRANS", TRANSITORY),
    ("6S 4SA 4RA", "TRANS", TRANSITORY),
    ("6S 4SA 4RA 6R", "TRANS", TRANSITORY),
    ("6S 4SA 4RA 6A", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6R 4PA", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6A 4FA 6R", "TRANS", TRANSITORY),
    ("6S 4SA 6A 6FA 4R", "TRANS", TRANSITORY),
    ("6S 4SA 6A 6R 4FA", "TRANS", TRANSITORY),
    ("6S 4SA 6A 4R 6FA", "TRANS", TRANSITORY),
    ("6S 4SA 6A 4FA 6R 4PA", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6A 6FA 6S", "V6_INIT", TRANSITORY),
    ("6S 4SA 6A 6FA 6S 4SA 4FA 6PA", "V4_FIN", ESTABLISHED),
    ("6S 4SA 6A 4FA 4SA", "V4_FIN", ESTABLISHED),
    ("6S 4SA 6A 4FA 4S", "TRANS", TRANSITORY),
    ("6S 4SA 6A 4FA 4S 6SA", "ESTABLISHED", ESTABLISHED),
    ("6S 4SA 6A 6FA 4FA 6S", "V6_INIT", TRANSITORY),
    ("6S 4SA 6A 6FA 4FA 6S 4SA", "ESTABLISHED", ESTABLISHED),
]


@pytest.mark.parametrize(("steps", "state", "timer"), PATHS)
def test_state_and_timer_after(flow: Flow, steps: str, state: str, timer: int) -> None:
    session = flow.play(steps)
    assert session.state == state
    ahead = spare(timer) if state == "ESTABLISHED" else 0
    assert session.expires_in in (timer + ahead, timer + ahead + 1)


def test_inbound_connection_to_a_binding(flow: Flow) -> None:
    flow.nat.configure(
        staticMappings=[
            {
                "protocol": "tcp",
                "client": str(POD),
                "clientPort": 4000,
                "address": str(POOL),
                "port": 8443,
            }
        ]
    )
    flow.port = 8443
    assert flow.play("4S").state == "V4_INIT"
    assert flow.session.expires_in in (TRANSITORY, TRANSITORY + 1)
    assert flow.play("4S 4A").state == "V4_INIT"
    assert flow.play("6SA").state == "ESTABLISHED"
    assert flow.play("4A 4FA 6FA").state == "BOTH_FIN"


def test_closing_session_is_not_kept_alive_by_what_follows(flow: Flow) -> None:
    flow.play("6S 4SA 6A 6FA 4FA")
    flow.nat.datapath.travel(200)
    flow.play("6A 4A")
    flow.nat.datapath.travel(45)
    assert flow.session.expires_in < 0


def live(nat: Machine, seconds: int) -> None:
    """Let time pass with the agent's sweeps in it; what these take is part of it."""
    end = nat.datapath.now() + seconds
    while (left := end - nat.datapath.now()) > 0:
        nat.datapath.travel(min(left, 5))
        nat.datapath.sweep()


def test_the_port_of_a_closed_connection_is_free_again_after_the_transitory_time(
    flow: Flow,
) -> None:
    flow.play("6S 4SA 6A 6FA 4FA")
    live(flow.nat, TRANSITORY)
    assert all(usage.used <= 1 for usage in flow.nat.datapath.usage())
    # it lingers for a minute, and rests for two more where ports are not scarce
    live(flow.nat, 200)
    assert list(flow.nat.datapath.bib()) == []
    assert all(usage.used == 0 for usage in flow.nat.datapath.usage())


@pytest.mark.bulk
def test_the_port_of_an_established_connection_is_kept_through_all_sweeps(flow: Flow) -> None:
    flow.play("6S 4SA 6A")
    port = flow.port
    live(flow.nat, ESTABLISHED - 60)
    assert flow.packet("4PA").translated
    live(flow.nat, 300)
    assert flow.packet("6PA").translated
    assert flow.port == port


def test_a_session_opened_between_two_sweeps_keeps_its_binding(flow: Flow) -> None:
    """Its binding's time was raised by an earlier connection, so it doesn't raise it itself."""
    nat = flow.nat
    flow.play("6S 4SA 6A 6FA 4FA")
    live(nat, TRANSITORY)  # the first session ends, and its binding is about to
    syn = IPv6(src=str(POD), dst=at(OTHER)) / TCP(sport=4000, dport=81, flags="S")
    port = nat.from_pod(syn).packet.sport
    assert port == flow.port
    live(nat, 200)
    assert nat.from_pod(syn).packet.sport == port


def test_established_session_lives_two_hours_and_four_minutes(flow: Flow) -> None:
    flow.play("6S 4SA 6A")
    flow.nat.datapath.travel(ESTABLISHED - 2)
    assert flow.packet("4PA").translated
    flow.nat.datapath.travel(ESTABLISHED - 2)
    assert flow.packet("6PA").translated
    flow.nat.datapath.travel(ESTABLISHED + spare(ESTABLISHED) + 2)
    assert flow.packet("4PA").passed


def test_no_fin_is_lost_where_both_come_at_once(flow: Flow) -> None:
    """State and timer are one word: with two, each CPU wrote over what the other had done."""
    nat = flow.nat
    link = MAC + bytes(6)
    start = threading.Barrier(2, timeout=60)
    rounds = 100
    ports = {}
    for port in range(2000, 2000 + rounds):
        opening = IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=port, dport=81, flags="S")
        ports[port] = nat.from_pod(opening).packet.sport
        answer = TCP(sport=81, dport=ports[port], flags="SA")
        assert nat.from_internet(IP(src=str(SERVER), dst=str(POOL)) / answer).translated

    def of_pod(port: int) -> bytes:
        fin = IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=port, dport=81, flags="FA")
        return link + b"\x86\xdd" + bytes(fin)

    def of_server(port: int) -> bytes:
        fin = IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=81, dport=ports[port], flags="FA")
        return link + b"\x08\x00" + bytes(fin)

    def run(hook: str, ifindex: int, frames: list[bytes]) -> None:
        program = nat.datapath.program(hook)
        for frame in frames:
            start.wait()
            program.run(frame, ifindex=ifindex, ingress_ifindex=ifindex)

    threads = [
        threading.Thread(target=run, args=(hook, ifindex, [make(port) for port in ports]))
        for hook, ifindex, make in (
            ("nat64_egress", nat.interface, of_pod),
            ("nat64_ingress", nat.uplink, of_server),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = [s for s in nat.datapath.sessions() if s.remote_port == 81]
    assert {s.state for s in ended} == {"BOTH_FIN"}
    assert max(s.expires_in for s in ended) <= TRANSITORY + 1


def test_segment_without_session_or_binding_is_refused(flow: Flow) -> None:
    for flags in ("A", "PA", "FA", "R", "RA"):
        assert flow.packet(f"6{flags}").dropped == "tcp_without_session"
    assert not list(flow.nat.datapath.sessions())
    assert not list(flow.nat.datapath.bib())


def test_segment_without_session_is_translated_where_a_binding_is_and_makes_none(
    flow: Flow,
) -> None:
    flow.nat.reset(filtering="EndpointIndependent")
    flow.play("6S")
    other = flow.nat.from_pod(
        IPv6(src=str(POD), dst=at(SERVER)) / TCP(sport=4000, dport=81, flags="A")
    )
    assert other.translated
    assert other.packet.sport == flow.port
    inbound = flow.nat.from_internet(
        IP(src=str(SERVER), dst=str(POOL)) / TCP(sport=82, dport=flow.port, flags="A")
    )
    assert inbound.translated
    assert len(list(flow.nat.datapath.sessions())) == 1


def test_configured_timers_are_used(flow: Flow) -> None:
    flow.nat.configure(timeouts={"tcpEstablished": 8000, "tcpTransitory": 300})
    assert flow.play("6S").expires_in in (300, 301)
    assert flow.play("4SA").expires_in - spare(8000) in (8000, 8001)
    flow.nat.configure(timeouts={"tcpEstablished": 9000})
    assert flow.play("6A").expires_in - spare(9000) in (9000, 9001)
