"""The storage systems that Farboot knows, by scheme, without importing their clients.

A source's module is imported when its first location is opened. A client that is not installed disables its own
source and names the packages that bring it.
"""

import ctypes
import importlib
import importlib.util
from dataclasses import dataclass

from probes.credentials import NO_CREDENTIALS, Credentials
from probes.errors import MissingClient, Unsupported
from probes.location import Location
from probes.source import DEADLINE, CanWrite, Fetches, HasSnapshots, Source, TellsUse


@dataclass(frozen=True, slots=True)
class Client:
    """What a source needs: a Python module to import, or (with `sonames`) a shared library, any one of those names;
    and the packages that bring it.
    """

    module: str
    debian: str = ""
    fedora: str = ""
    pypi: str = ""
    sonames: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether it could be imported, which is not done; a shared library is loaded, for nothing else tells."""
        if self.sonames:
            return any(_loads(soname) for soname in self.sonames)
        try:
            return importlib.util.find_spec(self.module) is not None
        except (ImportError, ValueError):
            return False

    @property
    def remedy(self) -> str:
        """What to install, in one line."""
        ways = [f"apt install {self.debian}" if self.debian else ""]
        ways.append(f"dnf install {self.fedora}" if self.fedora else "")
        ways.append(f"pip install {self.pypi}" if self.pypi else "")
        return " or ".join(way for way in ways if way)


def _loads(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class System:
    """One storage system: its schemes, the class that speaks it, and what that needs.

    `isolated` systems run in a child process, for their library blocks without a bound, or holds the GIL.
    `abilities` are the protocols of `probes.source` that the class has beyond the contract. `read_only` systems are
    somebody's publications: nothing is ever written there. The servers of `unlisted` ones do not tell what they have.
    Of `costly` ones only what a person rests on is read: each image takes a connection, a log-in, or a disk that wakes.
    """

    title: str
    schemes: tuple[str, ...]
    source: str
    clients: tuple[Client, ...] = ()
    isolated: bool = False
    example: str = ""
    abilities: tuple[type, ...] = ()
    read_only: bool = False
    unlisted: bool = False
    costly: bool = False


# Debian has 7 for 1.19 and 1.20; Fedora and its kin 8 for 1.18, 9 for 1.19, later ones for what follows.
_LIBISCSI = tuple(f"libiscsi.so.{number}" for number in (7, 8, 9, 10, 11))

SYSTEMS: tuple[System, ...] = (
    System("Files", ("file",), "probes.sources.host:FileSource", example="/srv/images/", abilities=(TellsUse,)),
    System(
        "Block devices",
        ("host_device",),
        "probes.sources.host:DeviceSource",
        example="host_device:",
        abilities=(TellsUse,),
        costly=True,
    ),
    System(
        "Web server",
        ("http", "https"),
        "probes.sources.http:HttpSource",
        clients=(Client("requests", "python3-requests", "python3-requests", "requests"),),
        example="http://host:8000/images/",
        read_only=True,
    ),
    System(
        "Ceph RBD",
        ("rbd",),
        "probes.sources.rbd:RbdSource",
        clients=(Client("rados", "python3-rados", "python3-rados"), Client("rbd", "python3-rbd", "python3-rbd")),
        isolated=True,
        example="rbd:pool",
        abilities=(HasSnapshots, TellsUse),
    ),
    System(
        "NFS",
        ("nfs",),
        "probes.sources.nfs:NfsSource",
        clients=(
            Client(
                "libnfs",
                # No distribution packages it; newer compilers want to be told.
                "gcc python3-dev libnfs-dev && CFLAGS=-Wno-error=implicit-function-declaration pip install libnfs",
                "gcc python3-devel libnfs-devel && CFLAGS=-Wno-error=implicit-function-declaration pip install libnfs",
            ),
        ),
        isolated=True,
        example="nfs://host/export/",
        abilities=(CanWrite,),
    ),
    System(
        "iSCSI",
        ("iscsi",),
        "probes.sources.iscsi:IscsiSource",
        clients=(Client("libiscsi", "libiscsi7", "libiscsi", sonames=_LIBISCSI),),
        isolated=True,
        example="iscsi://host/",
        abilities=(TellsUse, CanWrite),
    ),
    System(
        "SSH",
        ("ssh", "sftp"),
        "probes.sources.ssh:SshSource",
        clients=(Client("paramiko", "python3-paramiko", "python3-paramiko", "paramiko"),),
        example="ssh://host/srv/images/",
        abilities=(CanWrite,),
    ),
    System(
        "FTP",
        ("ftp", "ftps"),
        "probes.sources.ftp:FtpSource",
        example="ftp://host/pub/",
        abilities=(Fetches,),
        read_only=True,
        costly=True,
    ),
    System(
        "TFTP",
        ("tftp",),
        "probes.sources.tftp:TftpSource",
        example="tftp://host/boot.iso",
        abilities=(Fetches,),
        read_only=True,
        unlisted=True,
        costly=True,
    ),
    System(
        "NBD",
        ("nbd", "nbds", "nbd+unix", "nbds+unix"),
        "probes.sources.nbd:NbdSource",
        clients=(Client("libnbd", "libnbd0", "libnbd", sonames=("libnbd.so.0",)),),
        example="nbd://host/",
        abilities=(TellsUse, CanWrite),
        costly=True,
    ),
    System(
        "GlusterFS",
        ("gluster",),
        "probes.sources.gluster:GlusterSource",
        clients=(Client("libgfapi", "libgfapi0", "glusterfs-api", sonames=("libgfapi.so.0",)),),
        isolated=True,
        example="gluster://host/volume/",
        abilities=(CanWrite,),
    ),
    System(
        "Sheepdog",
        ("sheepdog", "sheepdog+unix"),
        "probes.sources.sheepdog:SheepdogSource",
        example="sheepdog://host/",
        abilities=(HasSnapshots, TellsUse, CanWrite),
    ),
)


def system_of(scheme: str) -> System:
    """Return the system that speaks `scheme`. Raises Unsupported."""
    for system in SYSTEMS:
        if scheme in system.schemes:
            return system
    known = ", ".join(scheme for system in SYSTEMS for scheme in system.schemes)
    raise Unsupported("open", f"{scheme}:", "this Farboot does not speak it yet", f"it speaks {known}")


def open_source(location: Location, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> Source:
    """Make the source that speaks `location`'s scheme, in a child process where it needs one.

    Nothing is contacted yet. `deadline` in seconds bounds each of its calls. Raises Unsupported, MissingClient.
    """
    system = system_of(location.scheme)
    for client in system.clients:
        if not client.present:
            kind = "library" if client.sonames else "Python package"
            why = f"the {kind} {client.module} is not installed"
            raise MissingClient("open", location, why, client.remedy)
    if system.isolated:
        from probes.isolation.source import isolated

        return isolated(system, credentials, deadline)
    return load_source(system.source)(credentials, deadline)


def load_source(path: str) -> type[Source]:
    """Import the class at `module:Class`."""
    module, _, name = path.partition(":")
    found: type[Source] = getattr(importlib.import_module(module), name)
    return found
