"""What QEMU is shut in with: an argv prefix, worked out from the host's facts and the graph's needs alone.

By bubblewrap it sees its programs and libraries, firmware, name resolution, certificates and the guest's own folder;
nothing else of the host, whatever an image names. Under root it is moreover an account that owns nothing and keeps one
capability, to bind ports below 1024, which NFS servers ask of their clients. QEMU's own sandbox comes on top.
"""

from collections.abc import Sequence

from app.qemu.options import Host

FOLDER = "{folder}"
"""Stands for the guest folder's absolute path; see `app.qemu.steps.StartQemu`."""

INSIDE = "/guest"
"""Where the guest's folder lies for the confined QEMU: no path of the host is told, and none need be walked."""

# Not bubblewrap's --clearenv, nor its --perms: RHEL 9 has 0.4.
_ENVIRONMENT = ("/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", f"HOME={INSIDE}", f"TMPDIR={INSIDE}")
_KEPT = "-all,+net_bind_service"
_ROOMS = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
_DIES = ("--pdeathsig", "KILL")  # a change of account makes the kernel forget what was asked for before
_ENDS = ("--die-with-parent", "--new-session")


def confinement(host: Host, network: bool, reads: Sequence[str] = (), agent: str = "") -> tuple[str, ...]:
    """Return the prefix for a QEMU that needs the host's network or not, and reads the further host paths `reads`.

    `agent` is the socket, in the guest's folder, of an ssh agent that QEMU is to use.
    """
    drop = _account(host)
    if not host.bwrap:
        return ("/usr/bin/env", f"SSH_AUTH_SOCK={agent}", *drop) if agent else drop
    agents = (f"SSH_AUTH_SOCK={INSIDE}/{agent}",) if agent else ()
    return (*bubble(host, network, reads), "--", *_ENVIRONMENT, *agents, *drop)


def bubble(host: Host, network: bool, reads: Sequence[str] = ()) -> tuple[str, ...]:
    """Return bubblewrap's own part of the prefix, without the `--` that ends it."""
    argv = [str(host.bwrap), *_ROOMS]
    if host.netns and not network:
        argv.append("--unshare-net")
    if not host.root:
        argv.append("--unshare-user")
    elif host.setpriv and host.guest_uid is not None:
        argv += ["--cap-add", "ALL"]  # for setpriv, which drops them
    else:
        argv += ["--cap-drop", "ALL"]
    argv += _ENDS
    bound = _outermost((*host.reads, *reads))
    for parent in _parents(bound):  # which would be for root alone
        argv += ["--dir", parent]
    for path in bound:
        argv += ["--ro-bind", path, path]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    if host.accelerator == "kvm":
        argv += ["--dev-bind", "/dev/kvm", "/dev/kvm"]
    if not any(f"{path}/".startswith("/tmp/") for path in bound):
        argv += ["--symlink", INSIDE, "/tmp"]  # libgfapi keeps a volume's description there, whatever TMPDIR says
    argv += ["--bind", FOLDER, INSIDE, "--chdir", INSIDE, "--remount-ro", "/"]
    return tuple(argv)


def _account(host: Host) -> tuple[str, ...]:
    if not (host.root and host.setpriv and host.guest_uid is not None):
        return ()
    uid = str(host.guest_uid)
    with_kvm = host.accelerator == "kvm" and host.kvm_gid is not None
    groups = ("--groups", str(host.kvm_gid)) if with_kvm else ("--clear-groups",)
    kept = ("--bounding-set", _KEPT, "--inh-caps", _KEPT, "--ambient-caps", _KEPT)
    return (host.setpriv, "--reuid", uid, "--regid", uid, *groups, *kept, "--no-new-privs", *_DIES)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Return the paths in order, without those that lie in another of them."""
    unique = list(dict.fromkeys(path.rstrip("/") or "/" for path in paths))
    return [path for path in unique if not any(path.startswith(other + "/") for other in unique)]


def _parents(paths: Sequence[str]) -> list[str]:
    """Return the folders that lead to `paths`, outermost first, the root not among them."""
    found: dict[str, None] = {}
    for path in paths:
        steps = path.strip("/").split("/")[:-1]
        found |= dict.fromkeys("/" + "/".join(steps[:depth]) for depth in range(1, len(steps) + 1))
    return list(found)
