"""Which accelerator works here: believed only after it has run a guest.

/dev/kvm may exist, open and even start a machine that then never gets anywhere (broken nested virtualisation), and
QEMU may abort on `-cpu host`. So a boot sector runs under it, by way of the real firmware and a real disk: it counts
to 20 million and says so through the isa-debug-exit device. TCG takes 0.2 s for it, a working KVM less.

The processor model is part of the belief: `host` under KVM. Under TCG it is `max`, for guests of today want x86-64-v2
(RHEL 9) or v3 (RHEL 10), which qemu64 is not; a Linux kernel boots under `max` as fast as under qemu64 (6.5 s both),
and a named model such as Haswell brings nothing more.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from app.qemu.host.binary import module_folders
from app.qemu.host.remembered import fingerprint, remember

KVM = "/dev/kvm"
LIMIT = 2.0  # seconds that the trial may take

_WROTE = 33
_BELIEVED = _WROTE << 1 | 1  # what isa-debug-exit makes of it: 67
_LOOPS = 20_000_000

# 16-bit code: cli; mov ecx, LOOPS; again: dec ecx; jnz again; mov al, WROTE; out 0xf4, al; hlt; jmp -3
_CODE = (
    b"\xfa\x66\xb9" + _LOOPS.to_bytes(4, "little") + b"\x66\x49\x75\xfc\xb0" + bytes([_WROTE]) + b"\xe6\xf4\xf4\xeb\xfd"
)
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"


@dataclass(frozen=True)
class Accelerator:
    """`name` is "kvm" or "tcg"; `why` says in a sentence why it is not KVM, `remedy` what would mend that. `gid` is the
    group through which an unprivileged account may open /dev/kvm, where it takes one.
    """

    name: str
    why: str = ""
    remedy: str = ""
    gid: int | None = None


def cpu_model(accelerator: str) -> str:
    """Return the value of QEMU's `-cpu` for guests under `accelerator`."""
    return "host" if accelerator == "kvm" else "max"


def find_accelerator(qemu: str, setpriv: str | None = None, kvm: str = KVM) -> Accelerator:
    """Return the accelerator to use with the binary `qemu`, trying KVM for at most 2 s where that is not yet known.

    As root with `setpriv` given, guests run under an unprivileged account, and so does the trial.
    """
    drops = os.geteuid() == 0 and setpriv is not None
    may = _may_open(kvm, drops)
    if may.name != "kvm":
        return may
    prefix = unprivileged(str(setpriv), may.gid) if drops else ()
    modules = [entry for entry in _entries("/sys/module") if entry.startswith("kvm")]
    key: list[object] = [
        list(os.uname()),
        [_read(f"/sys/module/{module}/{fact}") for module in modules for fact in ("srcversion", "parameters/nested")],
        [fingerprint(path) for path in (qemu, kvm, *module_folders(qemu))],
        [os.geteuid(), *sorted(os.getgroups())],
        _read("/proc/sys/kernel/random/boot_id"),
    ]
    try:
        why = remember("kvm", key, lambda: _try_kvm(qemu, prefix))
    except _NothingLearntError as error:
        return Accelerator("tcg", f"KVM could not be tried: even without it {error}")
    remedy = "boot without nested virtualisation, or mend it on the outer host"
    return Accelerator("tcg", why, remedy) if why else may


def unprivileged(setpriv: str, gid: int | None, uid: int = 65534) -> tuple[str, ...]:
    """Return the argv prefix that runs a program as `uid`, with the group `gid` at most, and no capabilities."""
    groups = ("--groups", str(gid)) if gid is not None else ("--clear-groups",)
    return (setpriv, "--reuid", str(uid), "--regid", str(uid), *groups, "--bounding-set=-all", "--no-new-privs")


def run_trial(qemu: str, accelerator: str, prefix: Sequence[str] = ()) -> str:
    """Run the boot sector under `accelerator`; return "" if it got through, else what went wrong."""
    disk = os.memfd_create("trial")
    try:
        os.write(disk, BOOT_SECTOR)
        os.ftruncate(disk, 1 << 20)  # the firmware wants more of a disk than one sector
        node = f'{{"driver":"file","filename":"/dev/fdset/{disk}","node-name":"disk"}}'
        done = subprocess.run(
            [
                *prefix, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "64",
                "-machine", "q35", "-accel", accelerator, "-cpu", cpu_model(accelerator),
                "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-add-fd", f"fd={disk},set={disk}",
                "-blockdev", node, "-device", "virtio-blk-pci,drive=disk,bootindex=0",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace",
            pass_fds=(disk,), timeout=LIMIT, check=False, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"a guest started and got nowhere within {LIMIT:.0f} s"
    except OSError as error:
        return f"QEMU cannot be run ({error.strerror})"
    finally:
        os.close(disk)
    if done.returncode == _BELIEVED:
        return ""
    words = next((line for line in done.stderr.splitlines() if "warning" not in line and line.strip()), "")
    return f"QEMU ended with status {done.returncode}" + (f" ({words.strip()})" if words else "")


class _NothingLearntError(Exception):
    """Not even TCG got through, on a busy host say: this is no answer to remember."""


def _try_kvm(qemu: str, prefix: Sequence[str]) -> str:
    why = run_trial(qemu, "kvm", prefix)
    if why and (anyway := run_trial(qemu, "tcg", prefix)):
        raise _NothingLearntError(anyway)
    return f"/dev/kvm is there and does not work: {why}" if why else ""


def _may_open(kvm: str, drops: bool) -> Accelerator:
    """Whether guests could open the device, and through which group; name "kvm" says yes."""
    try:
        found = os.stat(kvm)
    except OSError:
        remedy = "modprobe kvm_intel or kvm_amd, and virtualisation switched on in the machine's firmware"
        return Accelerator("tcg", f"there is no {kvm}", remedy)
    if drops:
        if found.st_mode & 0o006 == 0o006:
            return Accelerator("kvm")
        if found.st_mode & 0o060 == 0o060 and found.st_gid:
            return Accelerator("kvm", gid=found.st_gid)
        why = f"{kvm} is for root alone, and guests run as an unprivileged account"
        return Accelerator("tcg", why, f"chgrp kvm {kvm} && chmod 660 {kvm}")
    if not os.access(kvm, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"this user may not open {kvm}", "usermod -aG kvm USER, and log in again")
    return Accelerator("kvm")


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
