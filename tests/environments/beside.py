"""What else a node may run beside us: firewalls, masquerading, another NAT64."""

from __future__ import annotations

from tests.cluster.controlplane import POD_RANGE
from tests.cluster.node import Node

# What both firewalls must let through for the cluster itself; an administrator opens these.
_CLUSTER_PORTS = "{ 53, 6443, 10250, 10256 }"


# As firewalld writes its table with the nftables back end: zone public by default, which ends in a
# reject, and both the pods' range and the translator's link in the zone trusted.
FIREWALLD = f"""
table inet firewalld {{
    chain mangle_PREROUTING {{
        type filter hook prerouting priority mangle + 10; policy accept;
    }}
    chain nat_POSTROUTING {{
        type nat hook postrouting priority srcnat + 10; policy accept;
    }}
    chain filter_PREROUTING {{
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }}
    chain filter_INPUT {{
        type filter hook input priority filter + 10; policy accept;
        ct state {{ established, related }} accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }}
    chain filter_FORWARD {{
        type filter hook forward priority filter + 10; policy accept;
        ct state {{ established, related }} accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }}
    chain filter_INPUT_ZONES {{
        ip6 saddr {POD_RANGE} accept
        iifname "nat64-default" accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        tcp dport {_CLUSTER_PORTS} accept
    }}
    chain filter_FORWARD_ZONES {{
        ip6 saddr {POD_RANGE} accept
        ip6 daddr {POD_RANGE} accept
        iifname "nat64-default" accept
    }}
}}
"""

# As ufw has it with iptables-nft, in short: INPUT and FORWARD on drop, replies by conntrack, and by
# `ufw allow` and `ufw route allow` the pods' range, and `in on nat64-default`.
UFW = """
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-before-forward - [0:0]
:ufw-user-input - [0:0]
:ufw-user-forward - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
ICMP-INPUT
-A ufw-before-input -j ufw-user-input
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
ICMP-FORWARD
-A ufw-before-forward -j ufw-user-forward
-A ufw-user-input -i nat64-default -j ACCEPT
-A ufw-user-forward -i nat64-default -j ACCEPT
PORTS
PODS
COMMIT
"""

# Docker's rules, which it makes for its default bridge even where it runs no container. An
# administrator's own belong into DOCKER-USER.
DOCKER = """
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-USER -i nat64-default -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""

# kube-proxy and other CNIs masquerade with ports at random from 1024 to 65535: our pool's as well.
RANDOM_MASQUERADE = """
table ip everything {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth0" masquerade fully-random
    }
}
"""

TAYGA = """
tun-device tayga
ipv4-addr 203.0.113.241
ipv6-addr fd00:10:98::1
prefix fd00:10:98:64::/96
dynamic-pool 203.0.113.240/28
"""


def firewalld(node: Node) -> None:
    """firewalld's rules in form, and no daemon."""
    node.run(["nft", "-f", "-"], input=FIREWALLD)


def ufw(node: Node) -> None:
    """ufw's rules in form, for both families."""
    for command, icmp, pods in (
        ("iptables-nft-restore", "icmp", ""),
        (
            "ip6tables-nft-restore",
            "ipv6-icmp",
            f"-A ufw-user-input -s {POD_RANGE} -j ACCEPT\n"
            f"-A ufw-user-forward -s {POD_RANGE} -j ACCEPT\n"
            f"-A ufw-user-forward -d {POD_RANGE} -j ACCEPT",
        ),
    ):
        ports = "-A ufw-user-input -p tcp -m multiport --dports 53,6443,10250,10256 -j ACCEPT"
        text = UFW.replace("ICMP-INPUT", f"-A ufw-before-input -p {icmp} -j ACCEPT")
        text = text.replace("ICMP-FORWARD", f"-A ufw-before-forward -p {icmp} -j ACCEPT")
        node.run([command], input=text.replace("PORTS", ports).replace("PODS", pods))


def docker(node: Node) -> None:
    """Docker's bridge and rules; IPv6 is off in it, as by default."""
    node.run(["ip", "link", "add", "docker0", "type", "bridge"])
    node.run(["ip", "addr", "add", "172.17.0.1/16", "dev", "docker0"])
    node.run(["ip", "link", "set", "docker0", "up"])
    node.run(["iptables-nft-restore", "--noflush"], input=DOCKER)


def random_masquerade(node: Node) -> None:
    """All IPv4 that leaves is masqueraded at fully random ports."""
    node.run(["nft", "-f", "-"], input=RANDOM_MASQUERADE)


def tayga(node: Node) -> None:
    """Another NAT64, for another prefix."""
    node.write("/etc/tayga-test.conf", TAYGA)
    node.run(["tayga", "--mktun", "-c", "/etc/tayga-test.conf"])
    node.run(["ip", "link", "set", "tayga", "up"])
    node.run(["ip", "-6", "route", "add", "fd00:10:98:64::/96", "dev", "tayga"])
    node.run(["ip", "route", "add", "203.0.113.240/28", "dev", "tayga"])
    node.start("tayga", ["tayga", "-d", "-c", "/etc/tayga-test.conf"])
