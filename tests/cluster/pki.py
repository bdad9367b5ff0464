"""Certificates and kubeconfigs for the control plane, made with the openssl command.

One short-lived authority per cluster: clients are who their certificate's subject says they are,
as kubeadm does it, so that RBAC and the Node authorizer are exercised as in a real cluster.
"""

import json
from pathlib import Path
from typing import Self

from tests.cluster.run import run

_DAYS = "30"
_CONFIG = """\
[req]
distinguished_name = subject
x509_extensions = extensions
[subject]
[extensions]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
basicConstraints = critical, {constraints}
{more}
"""
_AUTHORITY = "keyUsage = critical, keyCertSign, cRLSign, digitalSignature"
_LEAF = """\
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
"""


class Authority:
    """A certificate authority in a folder, with every certificate that it issued beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._make("ca", "/CN=nat64-cluster-ca", "CA:TRUE", _AUTHORITY, [])

    @classmethod
    def opened(cls, folder: Path) -> Self:
        """The authority that was made in a folder before."""
        authority = cls.__new__(cls)
        authority.folder = folder
        return authority

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def issue(
        self, name: str, common_name: str, organization: str = "", *, hosts: tuple[str, ...] = ()
    ) -> None:
        """Make a certificate for a client, or for a server when hosts are given."""
        subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
        alt = ",".join(f"IP:{h}" if ":" in h or h[0].isdigit() else f"DNS:{h}" for h in hosts)
        more = _LEAF + (f"subjectAltName = {alt}" if alt else "")
        signer = ["-CA", str(self.certificate("ca")), "-CAkey", str(self.key("ca"))]
        self._make(name, subject, "CA:FALSE", more, signer)

    def kubeconfig(self, name: str, server: str) -> Path:
        """Write the kubeconfig of the client to whom `name` was issued."""
        user = {
            "client-certificate": str(self.certificate(name)),
            "client-key": str(self.key(name)),
        }
        cluster = {"server": server, "certificate-authority": str(self.certificate("ca"))}
        path = self.folder / f"{name}.kubeconfig"
        # JSON is YAML: no need for a library.
        text = json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "nat64", "cluster": cluster}],
                "users": [{"name": name, "user": user}],
                "contexts": [{"name": "nat64", "context": {"cluster": "nat64", "user": name}}],
                "current-context": "nat64",
            },
            indent=1,
        )
        path.touch(mode=0o600)  # Helm warns about one that others can read
        path.write_text(text)
        return path

    def _make(
        self, name: str, subject: str, constraints: str, more: str, signer: list[str]
    ) -> None:
        config = self.folder / f"{name}.cnf"
        config.write_text(_CONFIG.format(constraints=constraints, more=more))
        argv = ["openssl", "req", "-x509", "-config", str(config), "-days", _DAYS, *signer]
        argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-keyout", str(self.key(name)), "-out", str(self.certificate(name))]
        run([*argv, "-subj", subject])
