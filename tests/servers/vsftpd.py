"""A real vsftpd: LIST only, strict about TLS session reuse, bytes for names; for anonymous users."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers.server import Server, is_listening, start_on_free_port

_CONFIGURATION = """
listen=YES
listen_address=127.0.0.1
listen_port={port}
background=NO
anonymous_enable=YES
local_enable=NO
anon_root={root}
anon_world_readable_only=NO
no_anon_password=YES
secure_chroot_dir={home}/empty
xferlog_enable=NO
seccomp_sandbox=NO
{more}
"""


@dataclass
class Vsftpd:
    """A running vsftpd that serves `root`."""

    server: Server
    port: int
    root: Path

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"


def start_vsftpd(home: Path, root: Path, more: str = "") -> Vsftpd:
    """Start vsftpd in `home`, serving `root`, which everybody can enter. `more` are lines of configuration."""
    (home / "empty").mkdir(parents=True, exist_ok=True)
    (home / "empty").chmod(0o555)

    def make(port: int) -> Server:
        path = home / "vsftpd.conf"
        path.write_text(_CONFIGURATION.format(port=port, root=root, home=home, more=more))
        return Server(["/usr/sbin/vsftpd", os.fspath(path)], home, lambda: is_listening(port))

    server, port = start_on_free_port(make)
    return Vsftpd(server, port, root)


def make_certificate(home: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate for `host`, signed by itself, and its key."""
    certificate, key = home / "cert.pem", home / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ftp test",
         "-addext", f"subjectAltName=IP:{host},DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
