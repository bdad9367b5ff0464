"""What the API server refuses, with what words. Each row: the spec, and what the message says.

The message is the user's only documentation at that moment, so it has to name the field, the
value and the rule.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.run import ClusterError
from tests.operator.conftest import Api, gateway, policy
from tests.unit.policy_specs import specs

pytestmark = pytest.mark.apiserver

PLUGIN = "has no meaning with the mode Plugin"
LENGTHS = "the length must be one of /32, /40, /48, /56, /64, /96"
BEYOND = "has bits set beyond its length"
IPV6_RANGE = "must be an IPv6 range"
IPV4_RANGE = "must be an IPv4 range"

Row = tuple[dict[str, Any], str, str]


def span(first: int, last: int) -> dict[str, int]:
    return {"from": first, "to": last}


def at(address: str, **more: Any) -> dict[str, Any]:
    return {"address": address, **more}


def shared(network: str, **more: Any) -> dict[str, Any]:
    return {"source": "Range", "range": network, **more}


ROUTED: dict[str, Any] = {"topology": "Gateway", "nodeSelector": {"egress": "yes"}}

OVERLAPS: list[list[dict[str, Any]]] = [
    [{}, {}],
    [{"ports": span(100, 200)}, {"ports": span(200, 200)}],
    [shared("203.0.113.0/28"), shared("203.0.113.8/29")],
    [shared("203.0.113.8/29"), shared("203.0.113.0/28")],
    [shared("203.0.113.8/29", ports=span(1, 9)), shared("203.0.113.8/29", ports=span(10, 19))],
    [{}, shared("203.0.113.1/32"), shared("203.0.113.1/32")],
]
STATIC = {
    "protocol": "TCP",
    "client": "2001:db8::1",
    "clientPort": 443,
    "address": "203.0.113.1",
    "port": 443,
}

BAD_GATEWAYS: list[Row] = [
    ({"prefix": "2001:db8::/90"}, "spec.prefix", LENGTHS),
    ({"prefix": "2001:db8::/33"}, "spec.prefix", LENGTHS),
    ({"prefix": "64:ff9b::/128"}, "spec.prefix", LENGTHS),
    ({"prefix": "::/0"}, "spec.prefix", LENGTHS),
    ({"prefix": "10.0.0.0/8"}, "spec.prefix", "is not an IPv6 prefix"),
    ({"prefix": "64:ff9b::"}, "spec.prefix", "is not an IPv6 prefix"),
    ({"prefix": ""}, "spec.prefix", "is not an IPv6 prefix"),
    ({"prefix": "nonsense"}, "spec.prefix", "is not an IPv6 prefix"),
    ({"prefix": "64:ff9b::1/96"}, "spec.prefix", BEYOND),
    ({"prefix": "2001:db8:1::/32"}, "spec.prefix", BEYOND),
    ({"prefix": "ff00::/96"}, "spec.prefix", "can't be routed to a translator"),
    ({"prefix": "fe80::/64"}, "spec.prefix", "can't be routed to a translator"),
    ({"prefix": "::/96"}, "spec.prefix", "can't be routed to a translator"),
    ({"prefix": "2001:db8:1:2:300:5::/96"}, "spec.prefix", "bits 64 to 71"),
    ({"prefix": "2001:db8::ff00:5:0:0/96"}, "spec.prefix", "bits 64 to 71"),
    ({"prefix": "2" * 60}, "spec.prefix", "may not be more than 43"),
    ({"prefix": 64}, "spec.prefix", "must be of type string"),
    ({"pools": []}, "spec.pools", "should have at least 1 items"),
    ({"pools": [{"source": "Nodes"}]}, "spec.pools[0].source", 'supported values: "Node", "Range"'),
    ({"pools": [{"source": "Range"}]}, "spec.pools[0]", "a range goes with the source Range"),
    ({"pools": [{"range": "192.0.2.0/24"}]}, "spec.pools[0]", "a range goes with the source Range"),
    ({"pools": [{"addressesPerNode": 2}]}, "spec.pools[0]", "goes with the source Range"),
    ({"pools": [shared("2001:db8::/64")]}, "spec.pools[0].range", IPV4_RANGE),
    ({"pools": [shared("203.0.113.9")]}, "spec.pools[0].range", IPV4_RANGE),
    ({"pools": [shared("203.0.113.9/29")]}, "spec.pools[0].range", BEYOND),
    ({"pools": [shared("10.0.0.0/15")]}, "spec.pools[0].range", "at most a /16"),
    ({"pools": [shared("127.0.0.0/24")]}, "spec.pools[0].range", "never leave a node"),
    ({"pools": [shared("169.254.1.0/24")]}, "spec.pools[0].range", "never leave a node"),
    ({"pools": [shared("224.0.0.1/32")]}, "spec.pools[0].range", "never leave a node"),
    ({"pools": [shared("0.0.0.0/24")]}, "spec.pools[0].range", "never leave a node"),
    (
        {"pools": [shared("203.0.113.0/30", addressesPerNode=5)]},
        "spec.pools[0]",
        "addressesPerNode is more than the range has",
    ),
    (
        {"pools": [shared("203.0.113.0/24", addressesPerNode=65)]},
        "spec.pools[0].addressesPerNode",
        "less than or equal to 64",
    ),
    (
        {"pools": [shared("203.0.113.0/24", addressesPerNode=0)]},
        "spec.pools[0].addressesPerNode",
        "greater than or equal to 1",
    ),
    ({"pools": [{"ports": "100-200"}]}, "spec.pools[0].ports", "must be of type object"),
    ({"pools": [{"ports": {"from": 5}}]}, "spec.pools[0].ports.to", "Required value"),
    ({"pools": [{"ports": span(5, 4)}]}, "spec.pools[0].ports", "from must be at most to"),
    ({"pools": [{"ports": span(0, 4)}]}, "spec.pools[0].ports.from", "equal to 1"),
    ({"pools": [{"ports": span(1, 65536)}]}, "spec.pools[0].ports.to", "equal to 65535"),
    ({"pools": [{"sources": "Node"}]}, "spec.pools[0].sources", "unknown field"),
    ({"pools": [{}] * 65}, "spec.pools", "must have at most 64 items"),
    ({"clat": {"mode": "Off"}}, "spec.clat.mode", 'supported values: "Disabled", "Pods"'),
    ({"clat": {"mode": False}}, "spec.clat.mode", "must be of type string"),
    ({"clat": {"prefix": "2001:db8::/64"}}, "spec.clat.prefix", "the length must be /96"),
    ({"clat": {"prefix": "nonsense"}}, "spec.clat.prefix", "is not an IPv6 prefix"),
    ({"clat": {"prefix": "192.0.2.0/24"}}, "spec.clat.prefix", "is not an IPv6 prefix"),
    ({"clat": {"prefix": "2001:db8::1/96"}}, "spec.clat.prefix", BEYOND),
    ({"clat": {"prefix": "fe80::/96"}}, "spec.clat.prefix", "can't be routed to a translator"),
    ({"clat": {"prefix": "2001:db8::ff00:5:0:0/96"}}, "spec.clat.prefix", "bits 64 to 71"),
    ({"clat": {"prefix": "64:ff9b::/96"}}, "spec.clat.prefix", "must not be the well-known"),
    (
        {"clat": {"mode": "Pods"}, "prefix": "64:ff9b:1::/48"},
        "spec.clat.prefix",
        "is within spec.prefix",
    ),
    (
        {"clat": {"mode": "Pods", "prefix": "2001:db8::/96"}, "prefix": "2001:db8::/96"},
        "spec.clat.prefix",
        "is within spec.prefix",
    ),
    ({"hostPorts": {"dns": 99, "clat": 99}}, "spec.hostPorts", "two are the same"),
    (
        {"hostPorts": {"clat": 6500}, "pools": [{"ports": span(6000, 7000)}]},
        "spec.hostPorts",
        "has one of these ports too",
    ),
    ({"advertise": {}}, "spec.advertise.interfaces", "Required value"),
    ({"advertise": {"interfaces": []}}, "spec.advertise.interfaces", "should have at least 1"),
    ({"advertise": {"interfaces": ["a b"]}}, "spec.advertise.interfaces[0]", "not an interface"),
    ({"advertise": {"interfaces": ["a", "a"]}}, "spec.advertise.interfaces[1]", "Duplicate value"),
    (
        {"advertise": {"interfaces": ["a"], "intervalSeconds": 3}},
        "spec.advertise.intervalSeconds",
        "greater than or equal to 4",
    ),
    (
        {"advertise": {"interfaces": ["a"], "intervalSeconds": 1801}},
        "spec.advertise.intervalSeconds",
        "less than or equal to 1800",
    ),
    (
        {"advertise": {"interfaces": ["a"], "routeLifetimeSeconds": 65529}},
        "spec.advertise.routeLifetimeSeconds",
        "less than or equal to 65528",
    ),
    (
        {"advertise": {"interfaces": ["a"], "routeLifetimeSeconds": 599}},
        "spec.advertise.routeLifetimeSeconds",
        "must be 0, or at least intervalSeconds; hosts would lose the route",
    ),
    ({"topology": "Router"}, "spec.topology", 'supported values: "Node", "Gateway"'),
    ({"topology": "Gateway"}, "spec.topology", "needs a nodeSelector that names the gateway nodes"),
    ({"topology": "Gateway", "nodeSelector": {}}, "spec.topology", "at least one label"),
    ({"clients": {}}, "spec.clients", "goes with the topology Gateway only"),
    ({"topology": "Node", "gateways": {}}, "spec.gateways", "goes with the topology Gateway only"),
    (
        {**ROUTED, "clients": {"nodeSelector": {"a b": "c"}}},
        "spec.clients.nodeSelector",
        "has a key that no label can have",
    ),
    (
        {**ROUTED, "clients": {"nodeSelector": {"a": "b c"}}},
        "spec.clients.nodeSelector",
        "is not the value of a label",
    ),
    (
        {**ROUTED, "gateways": {"transport": "GRE"}},
        "spec.gateways.transport",
        'supported values: "Tunnel", "Direct"',
    ),
    (
        {**ROUTED, "gateways": {"tunnelPort": 1023}},
        "spec.gateways.tunnelPort",
        "greater than or equal to 1024",
    ),
    (
        {**ROUTED, "gateways": {"tunnelPort": 61001}},
        "spec.gateways",
        "a pool of the node's own address has the tunnelPort too",
    ),
    (
        {**ROUTED, "hostPorts": {"dns": 8464}, "gateways": {}},
        "spec.gateways",
        "tunnelPort is one of spec.hostPorts, too",
    ),
    (
        {**ROUTED, "gateways": {"health": {"intervalMilliseconds": 99}}},
        "spec.gateways.health.intervalMilliseconds",
        "greater than or equal to 100",
    ),
    (
        {**ROUTED, "gateways": {"health": {"failureThreshold": 21}}},
        "spec.gateways.health.failureThreshold",
        "less than or equal to 20",
    ),
    (
        {**ROUTED, "gateways": {"health": {"recoveryThreshold": 0}}},
        "spec.gateways.health.recoveryThreshold",
        "greater than or equal to 1",
    ),
    (
        {
            **ROUTED,
            "gateways": {"health": {"intervalMilliseconds": 10_000, "failureThreshold": 7}},
        },
        "spec.gateways.health",
        "intervalMilliseconds times failureThreshold is more than 60000",
    ),
    ({"uplinks": ["eth 0"]}, "spec.uplinks[0]", "is not an interface name"),
    ({"uplinks": ["a-very-long-interface"]}, "spec.uplinks[0]", "may not be more than 15"),
    ({"uplinks": ["eth0", "eth0"]}, "spec.uplinks[1]", "Duplicate value"),
    ({"uplinks": [""]}, "spec.uplinks[0]", "should be at least 1 chars long"),
    ({"interfaceName": "a/b"}, "spec.interfaceName", "is not an interface name"),
    ({"interfaceName": "sixteen-letters-"}, "spec.interfaceName", "may not be more than 15"),
    ({"interfaceName": ".."}, "spec.interfaceName", "is not an interface name"),
    ({"staticMappings": [{}]}, "spec.staticMappings[0].protocol", "Required value"),
    (
        {"staticMappings": [{"protocol": "SCTP"}]},
        "spec.staticMappings[0].protocol",
        'supported values: "TCP", "UDP", "ICMP"',
    ),
    (
        {
            "staticMappings": [
                {
                    "protocol": "TCP",
                    "client": "10.0.0.1",
                    "clientPort": 80,
                    "address": "203.0.113.1",
                    "port": 80,
                }
            ]
        },
        "spec.staticMappings[0].client",
        "must be an IPv6 address",
    ),
    (
        {
            "staticMappings": [
                {
                    "protocol": "TCP",
                    "client": "2001:db8::1",
                    "clientPort": 80,
                    "address": "2001:db8::2",
                    "port": 80,
                }
            ]
        },
        "spec.staticMappings[0].address",
        "must be an IPv4 address",
    ),
    (
        {
            "staticMappings": [
                {
                    "protocol": "UDP",
                    "client": "2001:db8::1",
                    "clientPort": 0,
                    "address": "203.0.113.1",
                    "port": 70000,
                }
            ]
        },
        "spec.staticMappings[0].port",
        "should be less than or equal to 65535",
    ),
    ({"policy": {"allowedSources": ["10.0.0.0/8"]}}, "spec.policy.allowedSources[0]", IPV6_RANGE),
    ({"policy": {"allowedSources": ["fd00::1"]}}, "spec.policy.allowedSources[0]", IPV6_RANGE),
    ({"policy": {"allowedSources": ["fd00::1/8"]}}, "spec.policy.allowedSources[0]", BEYOND),
    (
        {"policy": {"allowedDestinations": ["fd00::/8"]}},
        "spec.policy.allowedDestinations[0]",
        IPV4_RANGE,
    ),
    (
        {"policy": {"allowedDestinations": ["10.0.0.1/8"]}},
        "spec.policy.allowedDestinations[0]",
        BEYOND,
    ),
    (
        {"policy": {"deniedDestinations": ["all"]}},
        "spec.policy.deniedDestinations[0]",
        IPV4_RANGE,
    ),
    (
        {"policy": {"allowNonGlobal": "yes"}},
        "spec.policy.allowNonGlobal",
        "must be of type boolean",
    ),
    (
        {"filtering": "None"},
        "spec.filtering",
        'supported values: "AddressAndPortDependent", "AddressDependent", "EndpointIndependent"',
    ),
    ({"tcpPortSharing": "Off"}, "spec.tcpPortSharing", 'supported values: "WhenFull", "Never"'),
    ({"tcpMSS": 1220}, "spec.tcpMSS", "must be of type string"),
    ({"flowOffload": "Off"}, "spec.flowOffload", 'supported values: "Auto", "Disabled"'),
    ({"lowestIPv6MTU": 1279}, "spec.lowestIPv6MTU", "greater than or equal to 1280"),
    ({"lowestIPv6MTU": 9001}, "spec.lowestIPv6MTU", "less than or equal to 9000"),
    ({"timeouts": {"udpSeconds": 119}}, "spec.timeouts.udpSeconds", "equal to 120"),
    ({"timeouts": {"udpSeconds": "5m"}}, "spec.timeouts.udpSeconds", "must be of type integer"),
    ({"timeouts": {"icmpSeconds": 0}}, "spec.timeouts.icmpSeconds", "equal to 1"),
    (
        {"timeouts": {"tcpEstablishedSeconds": 7199}},
        "spec.timeouts.tcpEstablishedSeconds",
        "equal to 7200",
    ),
    (
        {"timeouts": {"tcpTransitorySeconds": 239}},
        "spec.timeouts.tcpTransitorySeconds",
        "equal to 240",
    ),
    (
        {"timeouts": {"tcpIncomingSynSeconds": 5}},
        "spec.timeouts.tcpIncomingSynSeconds",
        "equal to 6",
    ),
    ({"timeouts": {"fragmentSeconds": 1}}, "spec.timeouts.fragmentSeconds", "equal to 2"),
    ({"timeouts": {"udp": 300}}, "spec.timeouts.udp", "unknown field"),
    ({"limits": {"sessions": 1023}}, "spec.limits.sessions", "equal to 1024"),
    ({"limits": {"sessions": 16777217}}, "spec.limits.sessions", "equal to 16777216"),
    ({"limits": {"portsPerClient": -1}}, "spec.limits.portsPerClient", "equal to 0"),
    (
        {"limits": {"newSessionsPerSecondPerClient": 1000001}},
        "spec.limits.newSessionsPerSecondPerClient",
        "equal to 1000000",
    ),
    *(({"pools": pools}, "spec.pools", "two pools overlap") for pools in OVERLAPS),
    ({"hostPorts": {"dns": 99, "dnsReady": 99}}, "spec.hostPorts", "two are the same"),
    (
        {"hostPorts": {"translator": 6500}, "pools": [{"ports": span(6000, 7000)}]},
        "spec.hostPorts",
        "a pool of the node's own address has one of these ports too",
    ),
    (
        {"staticMappings": [STATIC, {**STATIC, "clientPort": 8443}]},
        "spec.staticMappings[1]",
        'Duplicate value: {"address":"203.0.113.1","port":443,"protocol":"TCP"}',
    ),
    ({"hostPorts": {"dns": 0}}, "spec.hostPorts.dns", "equal to 1"),
    ({"hostPorts": {"translator": 65536}}, "spec.hostPorts.translator", "equal to 65535"),
    (
        {"updateStrategy": {"maxUnavailable": 0}},
        "spec.updateStrategy.maxUnavailable",
        "a percentage from 1% to 100%",
    ),
    (
        {"updateStrategy": {"maxUnavailable": "half"}},
        "spec.updateStrategy.maxUnavailable",
        "a percentage from 1% to 100%",
    ),
    (
        {"updateStrategy": {"maxUnavailable": "101%"}},
        "spec.updateStrategy.maxUnavailable",
        "a percentage from 1% to 100%",
    ),
    (
        {"updateStrategy": {"type": "OnDelete", "canary": {"nodeSelector": {"a": "b"}}}},
        "spec.updateStrategy",
        "has a canary and the type OnDelete",
    ),
    ({"updateStrategy": {"type": "Recreate"}}, "spec.updateStrategy.type", "OnDelete"),
    (
        {"updateStrategy": {"canary": {"nodeSelector": {}}}},
        "spec.updateStrategy.canary.nodeSelector",
        "at least 1",
    ),
    (
        {"updateStrategy": {"canary": {"nodeSelector": {"a b": "c"}}}},
        "spec.updateStrategy.canary.nodeSelector",
        "a key that no label can have",
    ),
    ({"nodeSelector": {"a": 1}}, "spec.nodeSelector.a", "must be of type string"),
    ({"nodeSelector": {"a b": "x"}}, "spec.nodeSelector", "has a key that no label can have"),
    ({"nodeSelector": {"a/b/c": "x"}}, "spec.nodeSelector", "has a key that no label can have"),
    ({"nodeSelector": {"a": "b c"}}, "spec.nodeSelector[a]", "is not the value of a label"),
    ({"nodeSelector": {"a": "b" * 64}}, "spec.nodeSelector.a", "may not be more than 63"),
    ({"tolerations": [{}]}, "spec.tolerations[0]", "without a key needs the operator Exists"),
    (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.tolerations[0]",
        "with the operator Exists can't have a value",
    ),
    (
        {"tolerations": [{"key": "a", "effect": "Never"}]},
        "spec.tolerations[0].effect",
        'supported values: "NoSchedule"',
    ),
    ({"prefixes": ["64:ff9b::/96"]}, "spec.prefixes", "unknown field"),
]

BAD_POLICIES: list[Row] = [
    ({"gatewayRef": "default"}, "spec.gatewayRef", "must be of type object"),
    ({"gatewayRef": {"name": "No"}}, "spec.gatewayRef.name", "must be the name of a NAT64Gateway"),
    ({"gatewayRef": {"name": ""}}, "spec.gatewayRef.name", "must be the name of a NAT64Gateway"),
    (
        {"coreDNS": {"mode": "Replace"}},
        "spec.coreDNS.mode",
        'supported values: "Forward", "Import", "Plugin", "Manual"',
    ),
    (
        {"coreDNS": {"customConfigMapName": "A"}},
        "spec.coreDNS.customConfigMapName",
        "name of a ConfigMap",
    ),
    ({"coreDNS": {"namespace": "A"}}, "spec.coreDNS.namespace", "must be the name of a namespace"),
    ({"coreDNS": {"configMapName": "-"}}, "spec.coreDNS.configMapName", "name of a ConfigMap"),
    (
        {"coreDNS": {"failMode": "Open"}},
        "spec.coreDNS.failMode",
        'supported values: "Fallback", "Fail"',
    ),
    ({"coreDNS": {"configMap": "x"}}, "spec.coreDNS.configMap", "unknown field"),
    ({"upstreams": ["192.0.2.1"]}, "spec.upstreams[0]", "must be of type object"),
    ({"upstreams": [at("dns.example")]}, "spec.upstreams[0].address", "must be an IP address"),
    ({"upstreams": [at("2001:db8::1 ")]}, "spec.upstreams[0].address", "must be an IP address"),
    ({"upstreams": [at("192.0.2.256")]}, "spec.upstreams[0].address", "must be an IP address"),
    ({"upstreams": [at("192.0.2.1", port=0)]}, "spec.upstreams[0].port", "equal to 1"),
    ({"upstreams": [at("192.0.2.1", port=65536)]}, "spec.upstreams[0].port", "equal to 65535"),
    ({"upstreams": [{}]}, "spec.upstreams[0]", "an address goes with the source Address"),
    (
        {"upstreams": [at("192.0.2.1", source="Node")]},
        "spec.upstreams[0]",
        "an address goes with the source Address",
    ),
    (
        {"upstreams": [{"source": "Node", "tls": {}}]},
        "spec.upstreams[0]",
        "port and tls go with the source Address",
    ),
    (
        {"upstreams": [at("192.0.2.1", tls={"serverName": "*.example"})]},
        "spec.upstreams[0].tls.serverName",
        "must be a domain name",
    ),
    (
        {"upstreams": [at(f"192.0.2.{n}") for n in range(16)]},
        "spec.upstreams",
        "must have at most 15 items",
    ),
    (
        {"upstreams": [{"source": "Node"}, *(at(f"192.0.2.{n}") for n in range(12))]},
        "spec.upstreams",
        "must have at most 12 items where one has the source Node, which stands for up to 3",
    ),
    ({"zones": [{"upstreams": [at("192.0.2.1")]}]}, "spec.zones[0].name", "Required value"),
    ({"zones": [{"name": "corp.example"}]}, "spec.zones[0].upstreams", "Required value"),
    (
        {"zones": [{"name": "corp.example", "upstreams": []}]},
        "spec.zones[0].upstreams",
        "should have at least 1 items",
    ),
    (
        {"zones": [{"name": ".", "upstreams": [at("192.0.2.1")]}]},
        "spec.zones[0].name",
        "must be a domain name",
    ),
    (
        {"zones": [{"name": "corp.example", "upstreams": [at("x")]}]},
        "spec.zones[0].upstreams[0].address",
        "must be an IP address",
    ),
    (
        {"zones": [{"name": "corp.example", "upstreams": [at("192.0.2.1")]}] * 2},
        "spec.zones[1]",
        "Duplicate value",
    ),
    (
        {"zones": [{"name": "a.example", "upstreams": [at("192.0.2.1")], "passOn": ["NOERROR"]}]},
        "spec.zones[0].passOn[0]",
        'supported values: "NODATA", "NXDOMAIN"',
    ),
    (
        {"forward": {"policy": "First"}},
        "spec.forward.policy",
        'supported values: "Sequential", "RoundRobin", "Random"',
    ),
    (
        {"forward": {"healthCheck": {"intervalMilliseconds": 50}}},
        "spec.forward.healthCheck.intervalMilliseconds",
        "equal to 100",
    ),
    (
        {"forward": {"healthCheck": {"domain": "a b"}}},
        "spec.forward.healthCheck.domain",
        "must be a domain name",
    ),
    ({"forward": {"maxFails": -1}}, "spec.forward.maxFails", "equal to 0"),
    ({"forward": {"maxConnectAttempts": 101}}, "spec.forward.maxConnectAttempts", "equal to 100"),
    ({"forward": {"maxConcurrent": 16385}}, "spec.forward.maxConcurrent", "equal to 16384"),
    ({"forward": {"expireSeconds": 0}}, "spec.forward.expireSeconds", "equal to 1"),
    (
        {"forward": {"maxAgeSeconds": 5}},
        "spec.forward.maxAgeSeconds",
        "must be 0 (no limit), or not less than expireSeconds",
    ),
    (
        {"forward": {"readTimeoutMilliseconds": 5001}},
        "spec.forward.readTimeoutMilliseconds",
        "equal to 5000",
    ),
    ({"forward": {"forceTCP": "yes"}}, "spec.forward.forceTCP", "must be of type boolean"),
    ({"forward": {"failover": ["NOERROR"]}}, "spec.forward.failover[0]", "supported values"),
    ({"forward": {"timeout": 1}}, "spec.forward.timeout", "unknown field"),
    ({"allowedClients": ["2001:db8::1"]}, "spec.allowedClients[0]", "must be a range"),
    ({"deniedClients": ["10.0.0.0"]}, "spec.deniedClients[0]", "must be a range"),
    ({"allowedClients": ["2001:db8::1/32"]}, "spec.allowedClients[0]", BEYOND),
    ({"translateAll": "no"}, "spec.translateAll", "must be of type boolean"),
    ({"excludeAAAA": ["10.0.0.0/8"]}, "spec.excludeAAAA[0]", IPV6_RANGE),
    ({"excludeAAAA": ["2001:db8::1/32"]}, "spec.excludeAAAA[0]", BEYOND),
    ({"excludeA": ["2001:db8::/32"]}, "spec.excludeA[0]", IPV4_RANGE),
    ({"exemptZones": ["-x.example"]}, "spec.exemptZones[0]", "must be a domain name"),
    ({"exemptZones": ["a b"]}, "spec.exemptZones[0]", "must be a domain name"),
    ({"exemptZones": ["x.example { log }"]}, "spec.exemptZones[0]", "must be a domain name"),
    ({"mappings": [{"range": "10.0.0.0/8"}]}, "spec.mappings[0].prefix", "Required value"),
    (
        {"mappings": [{"range": "10.0.0.0/8", "prefix": "2001:db8::/90"}]},
        "spec.mappings[0].prefix",
        LENGTHS,
    ),
    (
        {"mappings": [{"range": "fd00::/8", "prefix": "2001:db8::/96"}]},
        "spec.mappings[0].range",
        IPV4_RANGE,
    ),
    (
        {"mappings": [{"range": "10.0.0.0/8", "prefix": "2001:db8::/96"}] * 2},
        "spec.mappings[1]",
        "Duplicate value",
    ),
    (
        {
            "mappings": [
                {
                    "range": "10.0.0.0/8",
                    "prefix": "2001:db8::/96",
                    "additionalPrefixes": ["2001:db8::/90"],
                }
            ]
        },
        "spec.mappings[0].additionalPrefixes[0]",
        LENGTHS,
    ),
    ({"ptr": "No"}, "spec.ptr", 'supported values: "CNAME", "Local", "Upstream"'),
    ({"coreDNS": {"mode": "Plugin", "failMode": "Fail"}}, "spec.coreDNS.failMode", PLUGIN),
    ({"coreDNS": {"mode": "Plugin"}, "upstreams": [at("192.0.2.1")]}, "spec.upstreams", PLUGIN),
    (
        {"coreDNS": {"mode": "Plugin"}, "zones": [{"name": "a", "upstreams": [at("192.0.2.1")]}]},
        "spec.zones",
        PLUGIN,
    ),
    (
        {
            "coreDNS": {"mode": "Plugin"},
            "mappings": [{"range": "10.0.0.0/8", "prefix": "2001:db8::/96"}],
        },
        "spec.mappings",
        PLUGIN,
    ),
    ({"coreDNS": {"mode": "Plugin"}, "exemptZones": ["corp"]}, "spec.exemptZones", PLUGIN),
    ({"ptr": "Local"}, "spec.ptrName", "is needed where ptr is Local"),
    ({"ptrName": "a.example"}, "spec.ptrName", "'a.example' has no meaning with ptr CNAME"),
    ({"ptr": "Local", "ptrName": "a b"}, "spec.ptrName", "must be a domain name"),
    ({"untranslated": "Drop"}, "spec.untranslated", 'supported values: "Passthrough", "ServFail"'),
    ({"cache": {"maxTTLSeconds": 0}}, "spec.cache.maxTTLSeconds", "equal to 1"),
    ({"cache": {"successEntries": 1}}, "spec.cache.successEntries", "equal to 1024"),
    ({"cache": {"minTTLSeconds": 3601}}, "spec.cache.minTTLSeconds", "equal to 3600"),
    ({"cache": {"denialMaxTTLSeconds": 0}}, "spec.cache.denialMaxTTLSeconds", "equal to 1"),
    ({"cache": {"denialMinTTLSeconds": -1}}, "spec.cache.denialMinTTLSeconds", "equal to 0"),
    ({"cache": {"servfailSeconds": 301}}, "spec.cache.servfailSeconds", "equal to 300"),
    ({"cache": {"keepTTL": 1}}, "spec.cache.keepTTL", "must be of type boolean"),
    ({"cache": {"prefetch": 10}}, "spec.cache.prefetch", "must be of type object"),
    ({"cache": {"prefetch": {"percent": 9}}}, "spec.cache.prefetch.percent", "equal to 10"),
    (
        {"cache": {"prefetch": {"withinSeconds": 0}}},
        "spec.cache.prefetch.withinSeconds",
        "equal to 1",
    ),
    (
        {"cache": {"serveStale": {"maxSeconds": 604801}}},
        "spec.cache.serveStale.maxSeconds",
        "equal to 604800",
    ),
    (
        {"cache": {"serveStale": {"mode": "Always"}}},
        "spec.cache.serveStale.mode",
        'supported values: "Immediate", "Verify"',
    ),
    (
        {"cache": {"serveStale": {"recheckSeconds": 301}}},
        "spec.cache.serveStale.recheckSeconds",
        "equal to 300",
    ),
    (
        {"cache": {"disable": {"denial": ["a b"]}}},
        "spec.cache.disable.denial[0]",
        "must be a domain name",
    ),
    ({"log": {"classes": ["All"]}}, "spec.log.classes[0]", '"Success", "Denial", "Error"'),
    ({"log": {"names": ["{"]}}, "spec.log.names[0]", "must be a domain name"),
    ({"log": {"format": "JSON"}}, "spec.log.format", 'supported values: "Common", "Combined"'),
    (
        {"log": {"consolidateErrorsSeconds": -1}},
        "spec.log.consolidateErrorsSeconds",
        "equal to 0",
    ),
    ({"logQueries": "Some"}, "spec.logQueries", 'supported values: "None", "Errors", "All"'),
    ({"ttl": 5}, "spec.ttl", "unknown field"),
]

BAD_NAMES = [("a.b", "without dots"), ("a" * 41, "at most 40 characters")]


def test_there_are_enough_rows_to_believe_in() -> None:
    assert len(BAD_GATEWAYS) + len(BAD_POLICIES) >= 80


# Where the API server's own words don't hold the value: of a type, a length or a count.
WITHOUT_VALUE = (
    *("must be of type", "may not be more than", "should be at least 1 chars", "items"),
    "unknown field",
)


def value_at(spec: dict[str, Any], field: str) -> Any:
    """What stands in a field; nothing where the field isn't there."""
    found: Any = spec
    for step in re.findall(r"[^.\[\]]+", field.removeprefix("spec")):
        found = found[int(step)] if isinstance(found, list) else (found or {}).get(step)
    return found


def names_value(message: str, spec: dict[str, Any], field: str, says: str) -> bool:
    """Whether a message holds the value that it is about, where that is one value."""
    value = value_at(spec, field)
    if value is None or isinstance(value, dict | list) or any(w in says for w in WITHOUT_VALUE):
        return True
    # A rule about several fields has no one value; its message compares them.
    return str(value) in message or f"Invalid value: {says}" in message


def refused(api: Api, obj: dict[str, Any]) -> str:
    with pytest.raises(ClusterError) as caught:
        api.control_plane.kubectl(
            "create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(obj)
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "field", "says"), BAD_GATEWAYS, ids=[str(r[0]) for r in BAD_GATEWAYS]
)
def test_a_bad_gateway_is_refused_with_field_and_rule(
    api: Api, spec: dict[str, Any], field: str, says: str
) -> None:
    message = refused(api, gateway(**spec))
    assert field in message
    assert says in message
    assert names_value(message, spec, field, says)


@pytest.mark.parametrize(
    ("spec", "field", "says"), BAD_POLICIES, ids=[str(r[0]) for r in BAD_POLICIES]
)
def test_a_bad_policy_is_refused_with_field_and_rule(
    api: Api, spec: dict[str, Any], field: str, says: str
) -> None:
    message = refused(api, policy(**spec))
    assert field in message
    assert says in message
    assert names_value(message, spec, field, says)


@pytest.mark.parametrize("make", [gateway, policy])
@pytest.mark.parametrize(("name", "says"), BAD_NAMES)
def test_a_name_that_other_names_can_t_be_made_of_is_refused(
    api: Api, make: Any, name: str, says: str
) -> None:
    assert says in refused(api, make(name))


GOOD_GATEWAYS: list[dict[str, Any]] = [
    {},
    {"prefix": "64:ff9b:1::/96"},
    {"prefix": "2001:DB8::/32"},
    {"prefix": "2001:db8:1:2::/64"},
    {"prefix": "2001:db8:1:2:3:5::/96"},
    {"prefix": "2001:db8:1:2:ff:5::/96"},
    {"pools": [shared("203.0.113.8/29", addressesPerNode=8, ports=span(4000, 4000)), {}]},
    {"pools": [{"ports": span(100, 200)}, {"ports": span(201, 300)}, shared("203.0.113.1/32")]},
    {"pools": [shared(f"203.0.113.{n}/32") for n in range(64)]},
    {"pools": [shared("10.0.0.0/16", addressesPerNode=64)]},
    {"hostPorts": {"dns": 6464, "dnsReady": 6466}, "pools": [{"ports": span(6467, 6500)}]},
    {"staticMappings": [STATIC, {**STATIC, "protocol": "UDP"}, {**STATIC, "port": 444}]},
    {"uplinks": ["eth0.100", "bond0"]},
    ROUTED,
    {**ROUTED, "clients": {"nodeSelector": {"ipv4": "no"}}},
    {**ROUTED, "clients": {}, "gateways": {}},
    {**ROUTED, "gateways": {"transport": "Direct", "tunnelPort": 61001}},
    {
        **ROUTED,
        "gateways": {
            "tunnelPort": 65535,
            "health": {
                "intervalMilliseconds": 10_000,
                "failureThreshold": 6,
                "recoveryThreshold": 20,
            },
        },
        "pools": [{"ports": span(61001, 65534)}],
    },
    {"clat": {}},
    {"clat": {"mode": "Pods"}},
    {"clat": {"mode": "Pods", "prefix": "2001:db8:64::/96"}, "prefix": "2001:db8::/96"},
    {"prefix": "64:ff9b:1::/48"},
    {"prefix": "64:ff9b:1::/48", "clat": {"mode": "Pods", "prefix": "64:ff9b:2::/96"}},
    {"advertise": {"interfaces": ["eth1"]}},
    {"advertise": {"interfaces": ["eth1"], "intervalSeconds": 4, "routeLifetimeSeconds": 4}},
    {"advertise": {"interfaces": ["eth1", "vlan20"], "routeLifetimeSeconds": 0}},
    {"advertise": {"interfaces": ["eth1"], "intervalSeconds": 1800, "routeLifetimeSeconds": 65528}},
    {"tolerations": []},
    {"tolerations": [{"key": "a", "value": "b", "effect": "NoSchedule"}]},
    {"updateStrategy": {"maxUnavailable": 3}},
    {"updateStrategy": {"maxUnavailable": "100%"}},
    {"updateStrategy": {"type": "OnDelete"}},
    {"updateStrategy": {"maxUnavailable": 1, "canary": {"nodeSelector": {"a/b": "c"}}}},
]
GOOD_POLICIES: list[dict[str, Any]] = [
    {},
    {"upstreams": [{"source": "Node"}, at("192.0.2.1", port=5353), at("2001:db8::2")]},
    {"upstreams": [at("192.0.2.1", tls={}), at("2001:db8::1", port=853, tls={"serverName": "a."})]},
    {"upstreams": [{"source": "Node"}, *(at(f"192.0.2.{n}") for n in range(11))]},
    {"upstreams": [at(f"192.0.2.{n}") for n in range(15)]},
    {"zones": [{"name": "corp.example", "upstreams": [at("192.0.2.1")], "passOn": ["NODATA"]}]},
    {"forward": {"maxAgeSeconds": 10, "healthCheck": {"domain": "."}}},
    {"forward": {"failover": ["SERVFAIL"]}},
    {"ptr": "Local", "ptrName": "nat64.example"},
    {"cache": {"prefetch": {"queries": 10}, "serveStale": {"maxSeconds": 86400}}},
    {"log": {"classes": ["Denial"], "names": ["corp.example"]}},
    {"excludeAAAA": []},
    {"excludeAAAA": ["::ffff:0:0/96", "2001:db8::/32"]},
    {"exemptZones": ["corp.example.", "_tcp.example", "x"]},
    {"mappings": [{"range": "10.0.0.0/8", "prefix": "64:ff9b:1::/96"}]},
    {"coreDNS": {"mode": "Manual"}},
    {"coreDNS": {"mode": "Import", "customConfigMapName": "mine"}},
    {"coreDNS": {"mode": "Plugin"}},
]


@pytest.mark.parametrize("spec", GOOD_GATEWAYS, ids=str)
def test_a_good_gateway_is_accepted(api: Api, spec: dict[str, Any]) -> None:
    api.control_plane.kubectl(
        "create", "--dry-run=server", "-f", "-", input=json.dumps(gateway(**spec))
    )


@pytest.mark.parametrize("spec", GOOD_POLICIES, ids=str)
def test_a_good_policy_is_accepted(api: Api, spec: dict[str, Any]) -> None:
    api.control_plane.kubectl(
        "create", "--dry-run=server", "-f", "-", input=json.dumps(policy(**spec))
    )


@settings(deadline=None, max_examples=25)
@given(drawn=st.lists(specs("dns64policies"), min_size=8, max_size=8))
def test_what_the_unit_tests_draw_is_what_the_api_server_takes(
    api: Api, drawn: list[dict[str, Any]]
) -> None:
    policies = [policy(f"p{n}", **spec) for n, spec in enumerate(drawn)]
    items = {"apiVersion": "v1", "kind": "List", "items": policies}
    api.control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(items))


LATER: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"interfaceName": "a"}, {"interfaceName": "b"}, "spec.interfaceName", "can't be changed"),
    ({}, {"interfaceName": "b"}, "spec.interfaceName", "'b' can't be set later"),
    ({"interfaceName": "a"}, {}, "spec.interfaceName", "'a' can't be taken away"),
    ({"interfaceName": "a"}, {"prefix": "::/96"}, "spec.prefix", "can't be routed"),
]
"""The spec before, the spec that is refused after it, the field, and what the message says."""


@pytest.fixture
def stored(api: Api) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Stores a gateway `stored`; gone afterwards."""

    def store(spec: dict[str, Any]) -> None:
        api.control_plane.kubectl("create", "-f", "-", input=json.dumps(gateway("stored", **spec)))

    yield store
    api.delete("nat64gateway", "stored")


@pytest.mark.parametrize(("before", "after", "field", "says"), LATER, ids=[str(r) for r in LATER])
def test_a_bad_change_is_refused_with_field_and_rule(
    api: Api,
    stored: Callable[[dict[str, Any]], None],
    before: dict[str, Any],
    after: dict[str, Any],
    field: str,
    says: str,
) -> None:
    stored(before)
    with pytest.raises(ClusterError) as caught:
        api.control_plane.kubectl(
            "replace", "--dry-run=server", "-f", "-", input=json.dumps(gateway("stored", **after))
        )
    assert field in str(caught.value)
    assert says in str(caught.value)


def test_an_interface_name_can_t_be_changed_by_way_of_none(
    api: Api, stored: Callable[[dict[str, Any]], None]
) -> None:
    stored({"interfaceName": "a"})
    for value in (None, "b"):
        with pytest.raises(ClusterError):
            api.patch("nat64gateway/stored", body={"spec": {"interfaceName": value}})
    assert api.get("nat64gateway", "stored")["spec"]["interfaceName"] == "a"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"interfaceName": "a"}, {"interfaceName": "a", "prefix": "64:ff9b:1::/96"}),
        ({}, {"timeouts": {"udpSeconds": 600}}),
        ({}, {"topology": "Gateway", "nodeSelector": {"egress": "yes"}}),
        ({"topology": "Gateway", "nodeSelector": {"egress": "yes"}, "gateways": {}}, {}),
        ({"staticMappings": [STATIC]}, {"staticMappings": [{**STATIC, "clientPort": 444}]}),
    ],
    ids=str,
)
def test_a_good_change_is_accepted(
    api: Api,
    stored: Callable[[dict[str, Any]], None],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    stored(before)
    api.control_plane.kubectl("replace", "-f", "-", input=json.dumps(gateway("stored", **after)))


def test_short_names_and_the_category_work(api: Api) -> None:
    for word in ("n64", "d64", "nat64"):
        api.control_plane.kubectl("get", word)


def test_explain_reads_like_documentation(api: Api) -> None:
    text = api.control_plane.kubectl("explain", "n64.spec.prefix")
    assert "64:ff9b::/96" in text
    assert "/32, /40, /48, /56, /64, /96" in text.replace("\n    ", " ")
