"""What the tests put on disks with partitions; the fixture `disk` makes them."""

from collections.abc import Callable
from pathlib import Path

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
BOOT_CODE = b"\xfa\x31\xc0\x8e\xd8" + b"\x90" * 60
LOADER_CODE = b"\xeb\x63\x90" + bytes(380) + b"GRUB \0Geom\0"

Disk = Callable[..., Path]
