"""UEFI firmware on this host: the code and the template of its variable store.

The standard way is QEMU's firmware descriptors (QEMU's docs/interop/firmware.json): JSON files in three folders, an
earlier folder's file hiding its namesakes, all sorted by name. Hosts without them (Proxmox) have known places.
"""

import json
import os

from app.qemu.options import Pflash

REMEDY = "apt install ovmf or dnf install edk2-ovmf"

FOLDERS = ("~/.config/qemu/firmware", "/etc/qemu/firmware", "/usr/share/qemu/firmware")

KNOWN = tuple(
    Pflash(f"{folder}/OVMF_CODE{size}.fd", f"{folder}/OVMF_VARS{size}.fd")
    for folder in (
        "/usr/share/OVMF",  # Debian, Ubuntu
        "/usr/share/pve-edk2-firmware",  # Proxmox
        "/usr/share/edk2/ovmf",  # Fedora, RHEL
        "/usr/share/edk2/x64",  # Arch
    )
    for size in ("_4M", "", ".4m")
)

# Features that need what our machine does not have, or that keep unsigned images from booting.
_UNWANTED = {"requires-smm", "secure-boot", "enrolled-keys", "amd-sev-snp", "intel-tdx"}


def find_uefi(folders: tuple[str, ...] = FOLDERS, known: tuple[Pflash, ...] = KNOWN) -> Pflash | None:
    """Return the firmware for an x86-64 q35 machine that boots unsigned images, or None if none is installed."""
    for path in _descriptors(folders):
        found = _read(path)
        if found and _is_there(found):
            return found
    return next((pair for pair in known if _is_there(pair)), None)


def _descriptors(folders: tuple[str, ...]) -> list[str]:
    by_name: dict[str, str] = {}
    for folder in folders:
        whole = os.path.expanduser(folder)
        if os.path.isdir(whole):
            for name in os.listdir(whole):
                if name.endswith(".json"):
                    by_name.setdefault(name, os.path.join(whole, name))
    return [by_name[name] for name in sorted(by_name)]


def _read(path: str) -> Pflash | None:
    """Return what the descriptor at `path` describes, if that suits; an empty or broken one hides its namesakes."""
    try:
        with open(path, encoding="utf-8") as file:
            described = json.load(file)
        mapping = described["mapping"]
        code, store = mapping["executable"], mapping["nvram-template"]
        suits = (
            "uefi" in described["interface-types"]
            and mapping["device"] == "flash"
            and mapping.get("mode", "split") == "split"
            and not _UNWANTED & set(described["features"])
            and any(_is_ours(target) for target in described["targets"])
            and code["format"] == store["format"]
        )
        return Pflash(code["filename"], store["filename"], code["format"]) if suits else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_ours(target: dict[str, object]) -> bool:
    machines = target["machines"]
    return (
        target["architecture"] == "x86_64"
        and isinstance(machines, list)
        and any(str(machine).startswith(("pc-q35-", "q35")) for machine in machines)
    )


def _is_there(pair: Pflash) -> bool:
    return os.access(pair.code, os.R_OK) and os.access(pair.vars, os.R_OK)
