"""What a DNS64Policy becomes is a Corefile that a stock CoreDNS runs, but for our own lines."""

from __future__ import annotations

from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import yaml

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import Policy
from nat64_operator.render.sidecar_corefile import render_corefile
from tests.dns64.conftest import StartUpstream
from tests.dns64.peers import CoreDNS
from tests.dns64.sidecar import free_port
from tests.dns64.upstreams import Zone

STORED = Path(__file__).parents[1] / "unit" / "stored" / "dns64policy-v1alpha1.yaml"
OURS = (
    *("exclude_aaaa", "exclude_a", "map", "exempt", "ptr", "break_dnssec", "special_use"),
    *("translator", "import"),
)


def test_a_stock_coredns_runs_what_a_policy_with_every_field_becomes(
    upstream: StartUpstream, tmp_path: Path
) -> None:
    up = upstream(Zone.of("v4.example. 300 IN A 198.51.100.7"))
    policy = Policy.parse(yaml.safe_load(STORED.read_text())).spec
    made = Gateway.parse({"metadata": {"name": "edge"}})
    text = render_corefile(made.config(), made.ports, policy, [str(up)])
    theirs = "\n".join(line for line in text.splitlines() if line.split()[0] not in OURS)
    for port in made.ports.all().values():
        theirs = theirs.replace(f" :{port}", f" [::1]:{free_port()}")
    theirs = theirs.replace(f".:{made.ports.dns}", ".:{$PORT}").replace("bind ::", "bind ::1")
    path = tmp_path / "Corefile"
    path.write_text(theirs)
    with CoreDNS(tmp_path, path) as server:
        query = dns.message.make_query("v4.example.", "AAAA")
        response = dns.query.udp(query, "::1", 20, server.port)
    assert response.rcode() == dns.rcode.NOERROR
    [answer] = response.answer
    assert [data.address for data in answer] == ["64:ff9b::c633:6407"]
