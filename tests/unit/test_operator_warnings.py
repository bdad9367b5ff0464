"""The condition Degraded: what the nodes warn of, with their names; and how they are asked."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus

import aiohttp
import msgspec
import pytest

from nat64_dataplane.http_server import Answer, HttpServer
from nat64_dataplane.translator.node_warning import warn
from nat64_dataplane.translator.run_directory import Status
from nat64_operator.edge.agent_status import AgentStatus, parse
from nat64_operator.edge.store import Store
from nat64_operator.reconcile.node_warnings import Asked, NodeWarning, condition
from tests.unit.operator_simulation import SETTINGS

ONE = NodeWarning("NoNftables", "the kernel has no nf_tables", "load the module")
TWO = NodeWarning("PortsNotReserved", "ports are not reserved", "prepare the node")


def test_no_warning_is_false_and_says_how_many_were_asked() -> None:
    found = condition(Asked({"a": (), "b": ()}))
    assert (found.status, found.reason) == (False, "NoWarnings")
    assert "2 nodes" in found.message


def test_one_reason_is_the_condition_s_own_and_names_the_nodes() -> None:
    found = condition(Asked({f"n{i}": (ONE,) for i in range(8)}))
    assert (found.status, found.reason) == (True, "NoNftables")
    assert "n0, n1, n2, n3, n4 and 3 more" in found.message
    assert ONE.remedy in found.message


def test_several_reasons_are_all_in_the_message() -> None:
    found = condition(Asked({"a": (ONE, TWO), "b": (TWO,)}))
    assert (found.status, found.reason) == (True, "SeveralWarnings")
    assert "NoNftables on a:" in found.message
    assert "PortsNotReserved on a, b:" in found.message


def test_nodes_that_do_not_answer_are_named_and_are_no_warning() -> None:
    found = condition(Asked({"a": ()}, ("b", "c")))
    assert found.status is False
    assert "not answered by b, c" in found.message


def test_what_the_agent_writes_is_what_the_operator_reads() -> None:
    warning = warn("PortsNotReserved", "61001-61010")
    status = Status(
        prefix="64:ff9b::/96",
        programmed=True,
        reason="Programmed: x",
        config_hash="0",
        since=1,
        warnings=(warning,),
    )
    found = parse(msgspec.json.encode(status))
    assert found == (NodeWarning(warning.reason, warning.message, warning.remedy),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"warnings": 7}',
        b'{"warnings": [{"reason": "x"}]}',
        b'{"warnings": [{"reason": "two words", "message": "", "remedy": ""}]}',
        b'{"warnings": [{"reason": ["x"], "message": "", "remedy": ""}]}',
    ],
)
def test_another_server_on_that_port_is_no_agent(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an agent"):
        parse(body)


def test_an_agent_of_an_earlier_version_has_no_warnings() -> None:
    assert parse(b'{"programmed": true}') == ()


def test_every_ready_node_of_a_gateway_is_asked(free_port: int) -> None:
    store = Store(SETTINGS)
    store.put(gateway(free_port))
    for name, address, ready in (("a", "::1", "True"), ("b", "::1", "False"), ("c", "::2", "True")):
        store.put(node(name, address, ready))

    def status() -> Answer:
        body = b'{"warnings": [{"reason": "NoNftables", "message": "m", "remedy": "r"}]}'
        return Answer(HTTPStatus.OK, body, "application/json")

    async def ask() -> None:
        server = HttpServer({"/status": status})
        await server.start("::1", free_port)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            await AgentStatus(store).ask_all(session)
        server.close()

    asyncio.run(ask())
    assert store.asked == {"default": Asked({"a": (NodeWarning("NoNftables", "m", "r"),)}, ("c",))}
    assert store.changed.is_set()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port: int = taken.getsockname()[1]
        return port


def gateway(port: int) -> dict[str, object]:
    return {
        "apiVersion": "nat64.io/v1alpha1",
        "kind": "NAT64Gateway",
        "metadata": {"name": "default", "uid": "1", "generation": 1, "resourceVersion": "1"},
        "spec": {"hostPorts": {"translator": port}},
    }


def node(name: str, address: str, ready: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "labels": {"kubernetes.io/os": "linux"},
        },
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }
