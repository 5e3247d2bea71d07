"""What QEMU's ssh driver (libssh) can be given, and what it cannot do."""

import base64
import contextlib
import time

from probes.attachment import QemuFacts
from probes.location import Location
from probes.network.call import Call
from probes.reader import Reader
from probes.ssh.known_hosts import fingerprint
from probes.ssh.line import HOST_KEY_ORDER
from probes.ssh.login import Connection
from probes.ssh.wire import Malformed, Packet

FAR = 0.005
"""Seconds a read. At 10 ms a guest took 26 times as long as beside its server, and its screen stood still."""
_LOOKS = 8  # the best of them counts: a busy machine is slow to hear of an answer


def why_bridge(connection: Connection, path: bytes, qemu: QemuFacts) -> str:
    """Why this QEMU cannot open `path` there by itself; empty if it can."""
    target, login = connection.target, connection.login
    if "ssh" not in qemu.drivers:
        return "this QEMU has no ssh driver (Debian's is in qemu-block-extra)"
    if target.jumps:
        return f"{target.name} is reached through {', '.join(target.jumps)}, and QEMU's libssh knows no jump hosts"
    if target.command:
        return f"{target.name} is reached through a program (ProxyCommand), which QEMU cannot start"
    if login.method not in {"none", "publickey"}:
        return f"{target.host} wants a password, and QEMU's ssh driver takes none"
    if login.identity and login.identity.is_certificate:
        return f"{target.host} let us in by a certificate, of which QEMU's libssh makes no use"
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return "QEMU cannot be given a name that is not UTF-8"
    return ""


def why_far(reader: Reader, location: Location) -> str:
    """Why an image is too far away for QEMU's driver, which reads in QEMU's main loop: while one read is on its way
    neither the guest's screen nor its processors get their turn. Empty if it is near.
    """
    nearest = FAR
    for _ in range(_LOOKS if reader.size else 0):
        began = time.monotonic()
        reader.pread(0, 1)
        took = time.monotonic() - began
        if took < FAR:
            return ""
        nearest = took if nearest == FAR else min(nearest, took)
    if not reader.size:
        return ""
    return f"{location.host} is {nearest * 1000:.0f} ms away, and QEMU's ssh driver holds up all of QEMU for each read"


def host_key(connection: Connection, call: Call) -> tuple[bytes, str]:
    """The host key that libssh will be shown, if this server proves that it is its own; or why that is not known.

    libssh asks for the first kind of its own order that the server has; ours was the first that known_hosts has.
    """
    line = connection.line
    wanted = next((kind for kind in HOST_KEY_ORDER if kind in line.offered_kinds), "")
    kind = "ssh-rsa" if wanted.startswith("rsa-") else wanted
    if Packet(line.shown_key).text() == kind:
        return line.shown_key, ""
    for blob in line.host_keys:
        with contextlib.suppress(Malformed):
            if Packet(blob).text() == kind and line.proves(call, blob):
                return blob, ""
    return b"", f"QEMU would be shown a host key ({kind}) that known_hosts does not have and the server does not prove"


def sha256_hex(blob: bytes) -> str:
    """The fingerprint of a key, as the driver wants it."""
    return base64.b64decode(fingerprint(blob).removeprefix("SHA256:") + "=").hex()
