"""How QEMU gets at an image, here and now: the value that a source gives and a boot plan is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from probes.credentials import Secret
from probes.location import Location
from probes.reader import Pin

Node = Mapping[str, object]
"""A QEMU blockdev node as `-blockdev` takes it in JSON, without `node-name` (QMP reference, BlockdevOptions)."""


class Route(StrEnum):
    """Who speaks the storage's protocol: QEMU's own driver, or Farboot's bridge (an NBD server on a Unix
    socket), or a copy fetched beforehand.
    """

    DRIVER = "driver"
    BRIDGE = "bridge"
    FETCH = "fetch"


class RouteWish(StrEnum):
    """Which route a person asks for."""

    AUTO = "auto"
    DIRECT = "direct"
    BRIDGE = "bridge"


class Mode(StrEnum):
    """What becomes of what the guest writes: thrown away with an overlay, or into the image."""

    SNAPSHOT = "snapshot"
    WRITE = "write"


@dataclass(frozen=True)
class QemuFacts:
    """What a source must know of the QEMU that will run: asked of that binary, never listed by hand.

    `version` is (7, 2, 22). `drivers` holds its block driver names, modules included. `route` is the person's
    wish.
    """

    version: tuple[int, ...]
    drivers: frozenset[str]
    route: RouteWish = RouteWish.AUTO


@dataclass(frozen=True)
class SecretSlot:
    """A secret that a node refers to: `option` ("password-secret") of the node names a secret object.

    `label` says in a prompt whose it is ("password of alice at web.example.org"). `asked` is the `Credentials`
    field that holds it ("password", "key", …). `format` is that of QEMU's secret object: "base64" says that the
    secret's text is base64 of what is meant (`-object secret,…,format=base64`), as rbd's key must be given. `found`
    says that the driver's own library would find it without us (in a keyring): a command typed by a person needs it
    not.
    """

    option: str
    secret: Secret
    label: str
    asked: str
    format: str = "raw"
    found: bool = False


@dataclass(frozen=True)
class HostFile:
    """A file or device of this host that QEMU gets as an open descriptor: `option` of the node ("filename")
    becomes `/dev/fdset/N`. `writable` opens it for writing as well, `exclusive` with O_EXCL: a block device that is
    mounted or held by another then refuses.
    """

    option: str
    path: str
    writable: bool = False
    exclusive: bool = False


@dataclass(frozen=True)
class Tls:
    """The TLS that a node wants: `option` ("tls-creds") of the node names the object that QEMU is given.

    `files` are (name in the object's folder as QEMU wants it, path on this host): "ca-cert.pem", "client-cert.pem",
    "client-key.pem". With `psk` it is a pre-shared key instead, for `username`. `hostname` is what the server's
    certificate must be for.
    """

    option: str = "tls-creds"
    files: tuple[tuple[str, str], ...] = ()
    psk: SecretSlot | None = None
    username: str = ""
    hostname: str = ""


@dataclass(frozen=True)
class Attachment:
    """The protocol level of an image's block graph.

    `node` is complete but for its secrets and host files, and for `read-only`, which the plan adds. With route
    BRIDGE `node` is empty: the bridge opens `location` itself, with the same credentials. `trusted` is whether the
    storage is the person's own (rbd, a local disk) and not somebody's web server: it decides the guest's
    default network. `writable` is whether the storage could be written at all. `reads` are host paths that
    the driver needs to read (a ceph.conf, a CA file). `agent_key` is the fingerprint of the ssh key with which QEMU's
    driver must log in: the plan gives it an agent of its own that signs with that key alone. `tls` is the TLS that the
    node wants. `scsi` says that the storage is SCSI itself (a LUN), so that its own commands can be passed through, and
    `cd` that it is a CD drive. `why` says in one sentence why this route was taken,
    where it is not QEMU's own driver.
    """

    location: Location
    route: Route
    pin: Pin
    node: Node = field(default_factory=dict)
    secrets: tuple[SecretSlot, ...] = ()
    files: tuple[HostFile, ...] = ()
    reads: tuple[str, ...] = ()
    writable: bool = False
    trusted: bool = False
    agent_key: str = ""
    tls: Tls | None = None
    scsi: bool = False
    cd: bool = False
    why: str = ""
    notes: tuple[str, ...] = ()
