"""The QEMU of this host: where it is, and what this very binary can do, asked of it.

A driver counts only once it has been loaded: Debian's QEMU names rbd and http in every list it prints, even where the
package that brings their modules is missing. `blockdev-add` looks the driver up, loads its module, and then checks the
options common to all nodes; one combination of those (detect-zeroes=unmap without discard=unmap) is always an error.
Who gets that error is there, and has contacted nobody.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.qemu.host.remembered import fingerprint, remember
from probes.errors import Crashed, MissingClient, TimedOut

SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")

# RHEL and its kin call it qemu-kvm and keep it out of PATH; on Proxmox it is `kvm`.
_NAMES = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/kvm", "qemu-kvm")
_DEADLINE = 20.0  # seconds; it takes 0.2
_NEVER = {"read-only": True, "discard": "ignore", "detect-zeroes": "unmap"}
_INET = {"type": "inet", "host": "localhost", "port": "1"}
_FILE = {"file": {"driver": "null-co"}}

# Each driver with the options that its schema demands. None of it is ever used.
_DRIVERS: Mapping[str, Mapping[str, object]] = {
    "file": {"filename": "absent"},
    "host_device": {"filename": "absent"},
    "http": {"url": "absent"},
    "https": {"url": "absent"},
    "ftp": {"url": "absent"},
    "ftps": {"url": "absent"},
    "nbd": {"server": _INET},
    "nfs": {"server": {"type": "inet", "host": "localhost"}, "path": "absent"},
    "iscsi": {"transport": "tcp", "portal": "localhost", "target": "absent"},
    "ssh": {"server": {"host": "localhost", "port": "1"}, "path": "absent"},
    "rbd": {"pool": "absent", "image": "absent"},
    "gluster": {"volume": "absent", "path": "absent", "server": [_INET]},
    **dict.fromkeys(
        ("raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels", "dmg", "bochs", "cloop", "luks"),
        _FILE,
    ),
}


@dataclass(frozen=True)
class Binary:
    """What one QEMU binary said of itself: its version, block drivers that load, whether it has the sandbox."""

    version: tuple[int, ...]
    drivers: frozenset[str]
    sandbox: bool


def find_qemu() -> str:
    """Return the absolute path of QEMU for x86-64 guests. Raises MissingClient."""
    return _find(_NAMES, "qemu-system-x86_64", "apt install qemu-system-x86 or dnf install qemu-kvm")


def find_qemu_img() -> str:
    """Return the absolute path of qemu-img. Raises MissingClient."""
    return _find(("qemu-img",), "qemu-img", "apt install qemu-utils or dnf install qemu-img")


def ask_binary(qemu: str) -> Binary:
    """Return what the binary at `qemu` can do, remembered until it or its modules change.

    Raises Crashed or TimedOut if it does not even answer.
    """
    key = [*fingerprint(qemu), *(part for folder in module_folders(qemu) for part in fingerprint(folder))]
    said = remember("qemu", key, lambda: _ask(qemu))
    return Binary(tuple(said["version"]), frozenset(said["drivers"]), bool(said["sandbox"]))


def module_folders(qemu: str) -> list[str]:
    """Return the folders that hold the binary's modules: a package that brings one changes their time stamp."""
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(qemu)))
    libraries = [os.path.join(prefix, "lib"), os.path.join(prefix, "lib64")]
    libraries += [os.path.join(libraries[0], entry) for entry in _entries(libraries[0]) if entry.endswith("-linux-gnu")]
    places = [os.path.join(library, name) for library in libraries for name in ("qemu", "qemu-kvm")]
    own = os.environ.get("QEMU_MODULE_DIR")
    return [place for place in (*places, *([own] if own else [])) if os.path.isdir(place)]


def _find(names: tuple[str, ...], called: str, remedy: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return os.path.abspath(found)
    raise MissingClient("find", called, "it is not installed", remedy)


def _ask(qemu: str) -> dict[str, Any]:
    try:
        return _converse(qemu, sandbox=True)
    except Crashed as error:
        if "sandbox" not in error.why:
            raise
        return _converse(qemu, sandbox=False)


def _converse(qemu: str, sandbox: bool) -> dict[str, Any]:
    argv = [qemu, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-qmp", "stdio"]
    requests: list[dict[str, object]] = [{"execute": "qmp_capabilities"}, {"execute": "query-version", "id": "version"}]
    for driver, options in _DRIVERS.items():
        node = {"driver": driver, "node-name": "probe", **options, **_NEVER}
        requests.append({"execute": "blockdev-add", "id": driver, "arguments": node})
    requests.append({"execute": "quit"})
    try:
        done = subprocess.run(
            [*argv, *(SANDBOX if sandbox else ())],
            input="\n".join(map(json.dumps, requests)),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_DEADLINE,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise TimedOut("ask", qemu, f"it did not tell its block drivers within {_DEADLINE:.0f} s") from None
    except OSError as error:
        raise Crashed("start", qemu, error.strerror or "it cannot be run") from None
    answers = {answer["id"]: answer for answer in _answers(done.stdout) if "id" in answer}
    if "version" not in answers:
        why = next(reversed(done.stderr.strip().splitlines()), "") or f"it ended with status {done.returncode}"
        raise Crashed("ask", qemu, re.sub(r"^\S*qemu\S*: ", "", why), "does it start at all?", done.stderr)
    version = answers["version"]["return"]["qemu"]
    return {
        "version": [version["major"], version["minor"], version["micro"]],
        "drivers": sorted(driver for driver in _DRIVERS if _is_there(answers.get(driver, {}))),
        "sandbox": sandbox,
    }


def _is_there(answer: Mapping[str, Any]) -> bool:
    return "detect-zeroes" in answer.get("error", {}).get("desc", "")


def _answers(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
