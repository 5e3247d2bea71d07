"""What this host can do, found out: QEMU and its drivers, accelerator, firmware, memory, and the means to confine.

The first time takes about a second, most of it the accelerator's trial; afterwards the answers are remembered until
what they depend on changes (`app.qemu.host.remembered`), and finding them takes a few milliseconds.
"""

import os
import random
import shutil
import subprocess
from dataclasses import replace

from app.command import self_command
from app.qemu.boot.confine import FOLDER, bubble, confinement
from app.qemu.host.accelerator import find_accelerator
from app.qemu.host.binary import ask_binary, find_qemu, find_qemu_img
from app.qemu.host.firmware import find_uefi
from app.qemu.host.remembered import fingerprint, remember
from app.qemu.host.resources import free_memory, usable_cpus
from app.qemu.options import Host
from probes.attachment import QemuFacts, RouteWish

BWRAP_REMEDY = "apt install bubblewrap or dnf install bubblewrap"

# Programs and libraries; the linker's cache; name resolution; the time zone; certificates (never /etc/ssl/private).
READS = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services",
    "/etc/localtime",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/crypto-policies",
    "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust", "/etc/gnutls",
)  # fmt: skip

# Guests' accounts under root: each guest its own, far from the ranges of people, systemd and containers.
_UIDS = range(1_900_000_000, 2_000_000_000)
_FEWER_UIDS = range(61_184, 65_520)  # within a container's usual 65,536, above what systemd gives out


def find_host(route: RouteWish = RouteWish.AUTO) -> Host:
    """Find out what this host can do. Raises MissingClient without QEMU, Crashed or TimedOut if it does not answer."""
    qemu, qemu_img = find_qemu(), find_qemu_img()
    binary = ask_binary(qemu)
    root = os.geteuid() == 0
    setpriv = shutil.which("setpriv", path=_system_path()) if root else None
    accelerator = find_accelerator(qemu, setpriv)
    uefi = find_uefi()
    host = Host(
        qemu=qemu,
        qemu_img=qemu_img,
        facts=QemuFacts(binary.version, binary.drivers, route),
        accelerator=accelerator.name,
        accelerator_why=accelerator.why,
        kvm_gid=accelerator.gid,
        memory=free_memory(),
        cpus=usable_cpus(),
        bwrap=shutil.which("bwrap", path=_system_path()),
        netns=True,
        setpriv=setpriv,
        root=root,
        guest_uid=_draw_uid() if setpriv else None,
        uefi=uefi,
        command=self_command(),
        reads=_reads(qemu, *((uefi.code, uefi.vars) if uefi else ())),
        sandbox=binary.sandbox,
    )
    return _with_missing(_that_works(host))


def fresh_host(host: Host) -> Host:
    """Return `host` for one more guest: an account of its own, and the memory and processors that are free now."""
    uid = None if host.guest_uid is None else _draw_uid()
    return replace(host, guest_uid=uid, memory=free_memory(), cpus=usable_cpus())


def _with_missing(host: Host) -> Host:
    missing = list(host.missing)
    if host.root and host.setpriv is None:
        missing.append("setpriv is not installed (apt install util-linux): QEMU runs as root")
    elif host.root and host.guest_uid is None:
        missing.append("this container has no accounts to spare: QEMU runs as root")
    if not host.sandbox:
        missing.append("this QEMU was built without its seccomp sandbox")
    return replace(host, missing=tuple(missing))


def _that_works(host: Host) -> Host:
    """Return `host` with bubblewrap as far as it really works here: containers and AppArmor may forbid it."""
    lost = "without it QEMU sees the files of this host that its account may read"
    if not host.bwrap:
        return replace(host, netns=False, missing=(f"bubblewrap is not installed ({BWRAP_REMEDY}): {lost}",))
    words = list(bubble(replace(host, accelerator="tcg"), network=False))
    key: list[object] = [fingerprint(host.bwrap), list(os.uname()), os.geteuid(), host.setpriv, words]
    key += [_read(path) for path in _USERNS_SWITCHES]
    why, netns = remember("bwrap", key, lambda: _try_bwrap(host))
    if why:
        return replace(host, bwrap=None, netns=False, missing=(f"bubblewrap does not work here ({why}): {lost}",))
    if not netns:
        note = "bubblewrap cannot give guests a network of their own here: what breaks out of QEMU reaches the host's"
        return replace(host, netns=False, missing=(note,))
    return host


_USERNS_SWITCHES = (
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/user/max_user_namespaces",
)


def _try_bwrap(host: Host) -> tuple[str, bool]:
    """Return why it does not work, or "", and whether a network namespace does. Accelerators play no part in it."""
    plain = replace(host, accelerator="tcg")
    if not _run_confined(confinement(plain, network=False)):
        return "", True
    return _run_confined(confinement(plain, network=True)), False


def _run_confined(prefix: tuple[str, ...]) -> str:
    argv = [word.replace(FOLDER, "/tmp") for word in prefix] + ["true"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=10, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""


def _reads(qemu: str, *firmware: str) -> tuple[str, ...]:
    folders = [os.path.dirname(os.path.dirname(os.path.realpath(qemu))), *map(os.path.dirname, firmware)]
    elsewhere = [folder for folder in folders if not folder.startswith("/usr") and folder not in {"", "/"}]
    return tuple(path for path in (*READS, *elsewhere) if os.path.exists(path))


def _draw_uid() -> int | None:
    """Return an account number nobody has, of those that exist in our user namespace; None if there is none."""
    spans = [tuple(map(int, line.split())) for line in _read("/proc/self/uid_map").splitlines()]
    for wanted in (_UIDS, _FEWER_UIDS):
        if any(first <= wanted[0] and wanted[-1] < first + count for first, _, count in spans):
            return random.SystemRandom().choice(wanted)
    return None


def _system_path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin:/usr/sbin:/sbin"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
