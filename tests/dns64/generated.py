"""A zone and questions about it, all drawn from one seed."""

from __future__ import annotations

import random
import string

from tests.dns64.differential import TYPES, ZONE, Case

GLOBAL = ("192.175.48", "192.31.196")
"""AS112's networks: reachable from everywhere by IANA's registry, so that the well-known prefix may
stand for them, and sinks for what nobody should ask. Here they are data and nothing is sent there.
"""
SPECIAL = ("198.51.100", "203.0.113", "10.0.0", "100.64.7", "169.254.3")
TTLS = (7, 60, 299, 300, 301, 3600, 86400)


class Generated:
    """Records in a zone file's form, and names worth asking for."""

    def __init__(self, seed: int, size: int = 60) -> None:
        self.rng = random.Random(seed)
        self.lines: list[str] = []
        self.names: list[str] = []
        for number in range(size):
            self._owner(number)

    def cases(self, count: int) -> list[Case]:
        """Questions as all kinds of clients ask them."""
        return [self._case() for _ in range(count)]

    def _owner(self, number: int) -> None:
        rng, name = self.rng, self._name(number)
        kind = rng.choice(("addresses",) * 5 + ("alias",) * 3 + ("tree", "wild", "deep", "other"))
        if kind == "alias":
            target = rng.choice([*self.names, "nowhere", f"{name}.nowhere"])
            self._add(name, "CNAME", target)
        elif kind == "tree":
            self._add(name, "DNAME", f"in-{name}")
            self._addresses(f"x.in-{name}")
            self.names += [f"x.{name}", f"y.{name}"]
        elif kind == "wild":
            self._addresses(f"*.{name}")
            self.names += [f"x.{name}", f"y.x.{name}"]
        elif kind == "deep":
            self._addresses(f"a.b.{name}")
            self.names += [f"a.b.{name}", f"b.{name}", f"c.b.{name}"]
        elif kind == "other":
            self._add(name, "TXT", f'"{name}"')
            self._add(name, "MX", f"10 {name}")
        else:
            self._addresses(name)
        self.names.append(name)

    def _addresses(self, name: str) -> None:
        rng = self.rng
        shape = rng.choice(("4", "4", "4", "4", "6", "46", "m", "4m", "6m", "46m"))
        ipv4 = rng.choice((GLOBAL, GLOBAL, SPECIAL, GLOBAL + SPECIAL))

        def drawn() -> str:
            return f"{rng.choice(ipv4)}.{rng.randrange(1, 255)}"

        if "4" in shape:
            self._add(name, "A", *{drawn() for _ in range(rng.choice((1, 1, 2, 5, 40)))})
        real = {f"2001:db8::{rng.randrange(1, 65535):x}" for _ in range(2)}
        real = real if "6" in shape else set()
        mapped = {f"::ffff:{drawn()}"} if "m" in shape else set()
        if real or mapped:
            self._add(name, "AAAA", *real, *mapped)

    def _add(self, name: str, rdtype: str, *data: str) -> None:
        ttl = self.rng.choice(TTLS)
        self.lines += [f"{name} {ttl} IN {rdtype} {text}" for text in sorted(data)]

    def _name(self, number: int) -> str:
        letters = string.ascii_lowercase + string.digits
        label = "".join(self.rng.choice(letters) for _ in range(self.rng.choice((1, 3, 20, 50))))
        return f"g{number}-{label}"

    def _case(self) -> Case:
        rng, name = self.rng, self.rng.choice([*self.names, "missing"])
        if rng.random() < 0.1:
            name = f"under.{name}"
        if rng.random() < 0.3:
            name = "".join(rng.choice((c.lower(), c.upper())) for c in name)
        rdtype = "AAAA" if rng.random() < 0.6 else rng.choice(TYPES)
        edns = rng.choice((0, 512, 1232, 4096, rng.randrange(512, 4096)))
        return Case(
            f"{name}.{ZONE}",
            rdtype,
            rdclass="CH" if rng.random() < 0.02 else "IN",
            tcp=rng.random() < 0.3,
            edns=edns,
            do=bool(edns) and rng.random() < 0.3,
            cd=rng.random() < 0.2,
            ad=rng.random() < 0.2,
            rd=rng.random() < 0.9,
            ipv4=rng.random() < 0.1,
        )
