"""Which samples are refused, and what the refusal says. All others are wired in every mode, but for
`Import`, which needs a Corefile that imports.
"""

FORWARD: dict[str, tuple[str, ...]] = {
    "kops-ipv6-dns64": ("line 13", "CoreDNS's own `dns64`", "mode Plugin"),
    "view-two-blocks": ("(line 1, line 9)", "join them into one"),
    "bind-two-blocks": ("(line 1, line 7)", "join them into one"),
    "two-ports-two-blocks": ("(line 1, line 6)", "join them into one"),
    "view-alone": ("line 2", "`view`", "remove it"),
    "two-forwards": ("(13, 14)", "mode Manual"),
    "snippet-forwards-first": ("line 16", "`import upstream`", "put it into the server block"),
    "snippet-forwards-only": ("line 16", "`import upstream`", "put it into the server block"),
    "no-forward": ("line 1", "no `forward .` line", "mode Manual"),
    "aaaa-template": ("line 17", "`template IN AAAA`", "remove it"),
    "aaaa-template-root": ("line 17", "`template ANY AAAA .`", "remove it"),
    "aaaa-rewrite": ("line 17", "`rewrite type AAAA A`", "remove it"),
    "aaaa-acl": ("line 17", "`filter type AAAA` (line 18)", "remove it"),
    "no-reload": ("line 1", "`reload`", "restart CoreDNS once"),
    "proxy": ("line 10", "replace `proxy` by `forward`"),
    "loopback-resolver": ("line 13", "127.0.0.1:5454 is a resolver in CoreDNS's own pod"),
    "loopback-resolver-ipv6": ("line 13", "[::1]:5454 is a resolver in CoreDNS's own pod"),
    "tls-own-authority": ("line 13", "`tls /etc/coredns/ca.crt` (line 14)", "set spec.upstreams"),
    "doh-upstream": ("line 13", "needs https", "set spec.upstreams"),
    "doq-upstream": ("line 13", "needs quic", "set spec.upstreams"),
    "host-name-upstream": ("line 13", "dns.example is not an address", "set spec.upstreams"),
    "variable-upstream": ("line 13", "{$UPSTREAM} is a variable", "set spec.upstreams"),
    "file-upstream": ("line 13", "is a file in CoreDNS's own pod", "set spec.upstreams"),
    "not-a-corefile": ("can't be read", "Corefile:1"),
    "empty": ("no server block for `.`",),
    "no-root": ("no server block for `.`",),
}

PLUGIN_TOO = {
    *("view-two-blocks", "bind-two-blocks", "two-ports-two-blocks", "view-alone"),
    *("aaaa-template", "aaaa-template-root", "aaaa-rewrite", "aaaa-acl", "no-reload"),
    *("not-a-corefile", "empty", "no-root"),
}
"""Those that Plugin refuses too: it needs no line, and no upstreams that a sidecar can ask."""

IMPORTS = {
    *("k3s", "k3d", "rancher-desktop", "aks", "gardener", "digitalocean", "scaleway", "oke", "iks"),
}
"""Those whose server block for `.` imports `*.override`."""

NOT_STARTED = {
    "proxy": "it went with CoreDNS 1.5",
    "not-a-corefile": "its block never closes",
    "host-name-upstream": "it asks for the name as it starts, and there is no internet here",
    "empty": "it would serve everything from nowhere",
}
