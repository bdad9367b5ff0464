"""`spec.clat`: one switch, which leaves nothing in living pods when it goes off."""

from typing import Any

import pytest

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.host_ports import derived_ports
from nat64_operator.errors import InvalidObjectError
from nat64_operator.render import gateway as render
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.render.removal import has_clat
from tests.unit.operator_simulation import NAMESPACE, SETTINGS, Simulation

PODS = {"mode": "Pods"}
HERE, LEAVING = names.daemon_set("default"), names.leaving("default")


def gateway(**spec: Any) -> Gateway:
    return Gateway.parse({"metadata": {"name": "default"}, "spec": spec})


def pod_of(made: Simulation, name: str = HERE) -> dict[str, Any]:
    spec: dict[str, Any] = made.owned[Ref("DaemonSet", name, NAMESPACE)]["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


def names_in(containers: list[dict[str, Any]]) -> list[str]:
    return [container["name"] for container in containers]


def test_the_agent_is_a_container_of_its_own_with_what_it_needs_and_no_more() -> None:
    read = gateway(clat=PODS)
    pod = render.daemon_set(read, read.config(), SETTINGS)["spec"]["template"]["spec"]
    assert names_in(pod["containers"]) == ["translator", "dns64", "clat"]
    assert pod["automountServiceAccountToken"] is False
    made = pod["containers"][2]
    rights = made["securityContext"]
    assert rights["privileged"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"] == {
        "drop": ["ALL"],
        "add": ["SYS_ADMIN", "NET_ADMIN", "BPF", "PERFMON"],
    }
    mounts = {mount["mountPath"]: mount for mount in made["volumeMounts"]}
    assert mounts["/run/netns"]["mountPropagation"] == "HostToContainer"
    assert mounts.keys() <= {
        volume.get("hostPath", {}).get("path", "/etc/nat64") for volume in pod["volumes"]
    }
    assert made["livenessProbe"]["httpGet"] == {"path": "/livez", "port": 9466}
    assert "readinessProbe" not in made, "DNS64 of the node would go with it"
    assert made["ports"][0]["containerPort"] == 9466
    others = [pod["containers"][0], pod["containers"][1]]
    for other in others:
        assert "SYS_ADMIN" not in other["securityContext"]["capabilities"].get("add", ())


def test_without_the_switch_nothing_of_it_is_there() -> None:
    read = gateway()
    assert read.config().clat is None
    assert "clat" not in read.ports.all()
    pod = render.daemon_set(read, read.config(), SETTINGS)["spec"]["template"]["spec"]
    assert names_in(pod["containers"]) == ["translator", "dns64"]
    assert not {"netns", "clat-run"} & set(names_in(pod["volumes"]))


def test_no_port_of_another_gateway_has_moved_for_it() -> None:
    assert derived_ports("default")[:5] == (9464, 6464, 6465, 6466, 6467)
    first = derived_ports("a")[0]
    assert derived_ports("a")[:5] == tuple(range(first, first + 5))
    assert (first - 21000) % 5 == 0
    assert derived_ports("a")[5] == 26000 + (first - 21000) // 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"clat": {"mode": "Pods", "prefix": "2001:db8::/64"}}, "spec: clat.prefix 2001:db8::/64"),
        ({"clat": {"mode": "Pods", "prefix": "64:ff9b::/96"}}, "spec: clat.prefix .*well-known"),
        ({"clat": PODS, "prefix": "64:ff9b:1::/48"}, "overlaps prefix 64:ff9b:1::/48"),
        ({"clat": {"mode": "All"}}, "All"),
    ],
)
def test_what_can_t_be_is_refused_with_field_and_rule(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidObjectError, match=message):
        gateway(**spec).config()


def test_a_prefix_that_overlaps_the_default_one_is_no_matter_while_the_switch_is_off() -> None:
    assert gateway(prefix="64:ff9b:1::/48").config().clat is None


def test_a_prefix_within_the_cluster_s_ranges_is_refused() -> None:
    made = Simulation()
    made.service_ranges = ("fd00:96::/96",)
    made.create("NAT64Gateway", "default", clat={"mode": "Pods", "prefix": "fd00:96::/96"})
    made.settle()
    status, _, message = made.condition("NAT64Gateway", "default", "Accepted")
    assert status == "False"
    assert "spec.clat.prefix: fd00:96::/96 overlaps" in message


def test_the_switch_off_takes_it_out_of_living_pods_and_deletion_too() -> None:
    made = Simulation()
    made.create("NAT64Gateway", "default", clat=PODS)
    made.settle()
    assert names.CLAT in names_in(pod_of(made)["containers"])
    assert names.REMOVE_CLAT not in names_in(pod_of(made)["initContainers"])

    made.edit("NAT64Gateway", "default", clat={"mode": "Disabled"})
    made.settle()
    pod = pod_of(made)
    assert names.CLAT not in names_in(pod["containers"])
    assert names_in(pod["initContainers"]) == ["prepare", names.REMOVE_CLAT]
    # what can't be removed must not keep the node's pod from starting
    assert pod["initContainers"][1]["command"][-1] == "--lenient"
    # a node that was away meanwhile cleans up when it is back
    made.now += 86400
    made.settle()
    assert names_in(pod_of(made)["initContainers"]) == ["prepare", names.REMOVE_CLAT]

    made.rolls_out = False
    made.delete("NAT64Gateway", "default")
    for _ in range(3):
        made.step()
    pod = pod_of(made)
    assert names_in(pod["initContainers"]) == [names.REMOVE_CLAT, "remove"]
    assert "--lenient" not in pod["initContainers"][0]["command"]
    assert set(mounts_of(pod)) <= set(names_in(pod["volumes"]))


def mounts_of(pod: dict[str, Any]) -> list[str]:
    made = (*pod["containers"], *pod["initContainers"])
    return [mount["name"] for container in made for mount in container["volumeMounts"]]


def test_a_gateway_that_never_had_it_is_removed_as_before() -> None:
    made = Simulation()
    made.create("NAT64Gateway", "default")
    made.settle()
    made.rolls_out = False
    made.delete("NAT64Gateway", "default")
    for _ in range(3):
        made.step()
    assert names_in(pod_of(made)["initContainers"]) == ["remove"]
    assert not has_clat(made.owned[Ref("DaemonSet", HERE, NAMESPACE)])


def test_a_node_that_leaves_the_gateway_loses_the_clat_of_its_pods() -> None:
    made = Simulation()
    made.create("NAT64Gateway", "default", clat=PODS)
    made.settle()
    made.rolls_out = False
    made.edit("NAT64Gateway", "default", clat=PODS, nodeSelector={"egress": "yes"})
    for _ in range(3):
        made.step()
    assert names_in(pod_of(made, LEAVING)["initContainers"]) == [names.REMOVE_CLAT, "remove"]


def test_two_gateways_of_a_node_can_t_both_have_it() -> None:
    made = Simulation()
    made.create("NAT64Gateway", "default", clat=PODS)
    other = {"prefix": "2001:db8::/96", "pools": [{"ports": {"from": 50000, "to": 50099}}]}
    made.create("NAT64Gateway", "second", **other, clat={**PODS, "prefix": "2001:db8:1::/96"})
    made.settle()
    status, reason, message = made.condition("NAT64Gateway", "second", "Accepted")
    assert (status, reason) == ("False", "CLATConflict")
    assert "spec.clat.mode: NAT64Gateway 'default' has a CLAT in the pods" in message
    made.edit("NAT64Gateway", "second", **other)
    made.settle()
    assert made.condition("NAT64Gateway", "second", "Accepted")[0] == "True"
