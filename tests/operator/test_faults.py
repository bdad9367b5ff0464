"""An API server that is slow, refuses, forgets or is away: no change is lost, requests stay few."""

import time

import pytest

from nat64_dataplane import config
from tests.operator.conftest import (
    NAMESPACE,
    PREFIX,
    Api,
    ClusterDns,
    Operator,
    condition,
    eventually,
    gateway,
    policy,
)
from tests.operator.faults import FaultProxy
from tests.operator.test_flow import (
    bring_up,
    events_of,
    is_ready,
    roll_out,
    service_address,
    sidecars_ready,
    the_corefile,
)

pytestmark = pytest.mark.apiserver

AWAY_SECONDS = 60
LONG = 600
"""Seconds for what refusals delay: a pass needs several answers, and is tried again after up to 30
seconds if one of them is refused. How often that is, is luck."""


@pytest.fixture
def running(
    cluster: Api, operator: Operator, proxy: FaultProxy, cluster_dns: ClusterDns
) -> tuple[Api, Operator, FaultProxy]:
    """All is well, through the proxy."""
    bring_up(cluster, operator, cluster_dns)
    return cluster, operator, proxy


def is_programmed(api: Api) -> bool:
    """Whether every node runs the gateway's config."""
    return condition(api.get("nat64gateway", "default"), "Programmed")[0] == "True"


def udp_timeout(api: Api) -> int:
    """What the config that the DaemonSet mounts says."""
    volumes = api.get("daemonset", "nat64-default")["spec"]["template"]["spec"]["volumes"]
    name = next(v["configMap"]["name"] for v in volumes if v["name"] == "config")
    found = api.get("configmap", name)
    return config.parse(found["data"]["translator.yaml"]).timeouts.udp if found else 0


def test_refusals_and_slow_answers_only_delay(
    cluster: Api, operator: Operator, proxy: FaultProxy, cluster_dns: ClusterDns
) -> None:
    proxy.rates = {409: 0.1, 429: 0.1, 500: 0.1, 503: 0.05}
    proxy.slow_seconds = 1.0
    cluster.apply(gateway(prefix=PREFIX), policy())
    operator.start()
    eventually(lambda: cluster.get("daemonset", "nat64-default"), LONG, about="the DaemonSet")
    roll_out(cluster)
    sidecars_ready(cluster)
    cluster_dns.synthesizes = True
    eventually(lambda: is_ready(cluster, "dns64policy"), LONG, about="policy Ready")
    assert operator.running
    made = proxy.count(30)
    assert made < 120, f"{made} requests in 30 s"
    assert f"[{service_address(cluster)}]:53" in the_corefile(cluster)


def test_an_event_that_can_t_be_made_yet_is_made_later_and_once(
    running: tuple[Api, Operator, FaultProxy],
) -> None:
    api, operator, proxy = running
    proxy.failing = {"events"}
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 400}}})
    eventually(lambda: not is_programmed(api), about="it rolls out")
    roll_out(api)
    eventually(lambda: is_programmed(api), about="statuses are written all the same")
    eventually(lambda: "an Event can't be posted yet" in operator.log(), about="said")
    uid = api.get("nat64gateway", "default")["metadata"]["uid"]
    before = {e["metadata"]["name"]: e["count"] for e in events_of(api, uid, "RollingOut")}
    proxy.failing = set()

    def made() -> bool:
        now = {e["metadata"]["name"]: e["count"] for e in events_of(api, uid, "RollingOut")}
        return bool(sum(now.values()) > sum(before.values()))

    eventually(made, about="the Event")
    known = sum(e["count"] for e in events_of(api, uid, "RollingOut"))
    assert known == sum(before.values()) + 1


def test_an_answer_that_comes_too_late_holds_up_one_object_only(
    running: tuple[Api, Operator, FaultProxy],
) -> None:
    api, operator, proxy = running
    proxy.stuck = {"daemonsets"}
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 888}}})

    def timed_out() -> bool:
        return "Read timed out" in operator.log()

    eventually(timed_out, 90, about="the operator gives up waiting")
    assert operator.ask("/healthz")[0] == 200
    # The change was made although its answer was late; it is not made again and again.
    eventually(lambda: udp_timeout(api) == 888, 90, about="the change is there")
    proxy.stuck = set()
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 889}}})
    eventually(lambda: udp_timeout(api) == 889, 90, about="the next one, too")
    assert operator.running


def test_a_minute_without_api_server_loses_nothing(
    running: tuple[Api, Operator, FaultProxy],
) -> None:
    api, operator, proxy = running
    proxy.down = True
    proxy.cut_watches()
    began = time.monotonic()
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 777}}})
    api.control_plane.kubectl("-n", NAMESPACE, "delete", "service/nat64-default-dns")
    time.sleep(AWAY_SECONDS)
    tried = proxy.count(time.monotonic() - began)
    assert operator.running, operator.log()
    assert tried < AWAY_SECONDS * 2, f"{tried} attempts while it was away"
    proxy.down = False
    eventually(lambda: api.get("service", "nat64-default-dns"), 60, about="service is back")
    eventually(lambda: udp_timeout(api) == 777, 60, about="the change is there")


def test_expired_watches_lose_nothing(running: tuple[Api, Operator, FaultProxy]) -> None:
    api, operator, proxy = running
    proxy.expire_watches = True
    proxy.cut_watches()
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 555}}})
    eventually(lambda: udp_timeout(api) == 555, 60, about="the change is there")
    time.sleep(10)
    assert operator.running, operator.log()
    made = proxy.count(10)
    assert made < 150, f"{made} requests in 10 s"
    proxy.expire_watches = False
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 556}}})
    eventually(lambda: udp_timeout(api) == 556, 60, about="the next one, too")


def watches_up(operator: Operator) -> str:
    """The metric's value, as it is written."""
    _, text = operator.ask("/metrics")
    [line] = [line for line in text.splitlines() if line.startswith("nat64_operator_watches_up ")]
    return line.split()[1]


def test_watches_that_die_start_again_and_the_process_goes_on(
    running: tuple[Api, Operator, FaultProxy],
) -> None:
    api, operator, proxy = running
    assert watches_up(operator) == "1.0"
    # A watch that waits for its answer as the others end is where kopf may miss that it was
    # cancelled: it would never return.
    proxy.silent = {"dns64policies"}
    proxy.break_watches = True
    proxy.cut_watches()
    eventually(lambda: operator.log().count("the watches ended") >= 3, 120, about="several ends")
    assert watches_up(operator) in ("0.0", "1.0")
    api.control_plane.kubectl("-n", NAMESPACE, "delete", "service/nat64-default-dns")
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 888}}})
    proxy.silent, proxy.break_watches = set(), False
    eventually(lambda: udp_timeout(api) == 888, 60, about="the change is there")
    eventually(lambda: api.get("service", "nat64-default-dns"), 60, about="service is back")
    ends = operator.log().count("the watches ended")
    assert operator.log().count("the watches start again") >= ends - 1
    api.patch("nat64gateway/default", body={"spec": {"timeouts": {"udpSeconds": 889}}})
    eventually(lambda: udp_timeout(api) == 889, 20, about="an event, not a list")
    assert watches_up(operator) == "1.0"
    assert operator.ask("/healthz")[0] == 200
    assert operator.end() == 0, "it ends when it is told to"
