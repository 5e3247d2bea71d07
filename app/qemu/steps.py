"""The steps of a boot plan, as values.

Paths without a leading `/` are relative to the guest's folder, which is QEMU's working directory as well. The
supervisor carries the steps out (`app.qemu.sessions.start`), `app.qemu.boot.script` prints them as a shell script:
one truth, told twice.
"""

from dataclasses import dataclass

from probes.attachment import Attachment
from probes.evidence import NOT_JUDGED, Evidence
from probes.image import Image
from probes.location import Location
from probes.reader import Pin
from probes.source import Use

UNLOCKS = "image_passphrase"
"""The field of the credentials that opens an encrypted image: `LaySecret.field` of its passphrase."""


@dataclass(frozen=True)
class CreateOverlay:
    """Create the throwaway qcow2 `path` of `size` bytes, its backing left to the block graph: argv is complete."""

    path: str
    size: int
    argv: tuple[str, ...]


@dataclass(frozen=True)
class CopyFile:
    """Copy the host file `source` to `path`, writable: the UEFI variable store, a configuration, a certificate.

    `secret` says that it is a key, which must be gone once QEMU has read it.
    """

    source: str
    path: str
    secret: bool = False


@dataclass(frozen=True)
class LaySecret:
    """Write the secret `field` of the credentials for `location` to `path`, for QEMU to read once.

    `label` says whose it is, for a prompt. The secret itself is not in the plan: the supervisor gets it beside
    the plan as `secrets[path]`; a script runs `argv`, which asks for it and prints it. In the file `before` comes
    first: QEMU's file of TLS pre-shared keys has a line `user:key`.
    """

    path: str
    location: Location
    field: str
    label: str
    argv: tuple[str, ...] = ()
    before: str = ""


@dataclass(frozen=True)
class StartBridge:
    """Start the bridge: `argv` serves `location` as NBD on the Unix socket `socket`, and checks that it still is
    what was judged.
    """

    socket: str
    location: Location
    argv: tuple[str, ...]


@dataclass(frozen=True)
class StartAgent:
    """Start an ssh agent on the Unix socket `socket` that signs with the key `fingerprint` alone, for QEMU's driver:
    QEMU's account could neither reach the person's agent nor read the person's keys.
    """

    socket: str
    location: Location
    fingerprint: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class FetchImage:
    """See that a whole copy of `location` lies here, which the graph's file is: it was fetched when the boot was
    prepared, so that only a script has to do it, by `argv`.
    """

    location: Location
    argv: tuple[str, ...]


@dataclass(frozen=True)
class OpenFile:
    """Open the host file or device `path` as descriptor `fd`, which QEMU inherits and finds as `/dev/fdset/N`."""

    path: str
    fd: int
    writable: bool
    exclusive: bool = False


@dataclass(frozen=True)
class StartQemu:
    """Start QEMU: `argv` is QEMU's own, complete, and `confinement` the prefix that shuts it in.

    The prefix may contain the word `{folder}`, which stands for the guest folder's absolute path. `uid` is the
    unprivileged account under root: the folder is given to it first. The supervisor adds `-S`.
    """

    argv: tuple[str, ...]
    confinement: tuple[str, ...] = ()
    uid: int | None = None


@dataclass(frozen=True)
class CheckUnchanged:
    """Once QEMU has opened the image and before the guest runs: compare size, validator and every byte that the verdict
    was drawn from with what was judged. `size` is also what QEMU must report for the node `node`.

    Before QEMU is started `node` is empty: so it is checked where QEMU itself will write to the image as it opens it (a
    qcow2's header says that it is in use), and afterwards, with `evidence` and the validator empty, only its size.
    """

    location: Location
    pin: Pin
    evidence: Evidence
    node: str
    size: int


@dataclass(frozen=True)
class CheckUnused:
    """Once QEMU has opened the image for writing and before the guest runs: nobody else may have it open. Looked for
    before that as well where QEMU itself writes to the image as it opens it.

    `ours` is how many users the storage will show that are this QEMU itself.
    """

    location: Location
    ours: int


Step = (
    CreateOverlay
    | CopyFile
    | LaySecret
    | StartBridge
    | StartAgent
    | FetchImage
    | OpenFile
    | StartQemu
    | CheckUnchanged
    | CheckUnused
)


@dataclass(frozen=True)
class Layer:
    """One image of a chain: how QEMU gets at it and what it is. The first one is what is booted, the next its
    backing file. `evidence` is what its verdict was drawn from.

    `use` is who uses it, as far as the storage tells: asked where the guest is to write into it, else None. `guests`
    are the ids of this host's guests that stand in the way: for writing all that have it, for a snapshot those that
    write.
    """

    attachment: Attachment
    image: Image
    evidence: Evidence = NOT_JUDGED
    use: Use | None = None
    guests: tuple[str, ...] = ()


@dataclass(frozen=True)
class BootPlan:
    """How an image will be booted, before anything is done.

    With `refusals` nothing may be done, and `steps` and `drive` are empty. `drive` is the short `-drive` value
    that a person would type, or empty, and then `drive_withheld` says why. `notes` are sentences for a person
    (the route taken, what confinement lacks). `image_refused` says that one of the refusals is for what the image is,
    which no other host or moment would change. `backing` are the images that are read beside it.
    `format`, `mode`, `memory` (bytes), `cpus` and `network` tell what the guest is, for whoever lists guests.
    """

    location: Location
    route: str
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    drive: str = ""
    drive_withheld: str = ""
    format: str = ""
    mode: str = ""
    memory: int = 0
    cpus: int = 0
    network: str = ""
    image_refused: bool = False
    backing: tuple[Location, ...] = ()

    @property
    def qemu(self) -> StartQemu | None:
        """The step that starts QEMU."""
        return next((step for step in self.steps if isinstance(step, StartQemu)), None)
