"""VMDKs changed field by field."""

from pathlib import Path

from tests.formats.images import patch

VARIANTS: dict[str, str] = {
    "plain": "subformat=monolithicSparse",
    "stream": "subformat=streamOptimized",
    "lsilogic": "adapter_type=lsilogic",
    "buslogic": "adapter_type=buslogic",
    "legacyESX": "adapter_type=legacyESX",
    "compat6": "compat6=on",
    "hwversion": "hwversion=17",
    "toolsversion": "toolsversion=1",
    "zeroed": "zeroed_grain=on",
    "zeroed stream": "subformat=streamOptimized,zeroed_grain=on",
}
"""Options of qemu-img for a VMDK of one file."""

# The header's fields, as (offset, struct format)
VERSION, FLAGS, CAPACITY, GRAIN, TEXT_OFFSET = (4, "<I"), (8, "<I"), (12, "<Q"), (20, "<Q"), (28, "<Q")
ENTRIES, SECOND, DIRECTORY, DATA = (44, "<I"), (48, "<Q"), (56, "<Q"), (64, "<Q")
UNCLEAN, COMPRESSION = (72, "<B"), (77, "<H")
DESCRIPTOR = 512
"""Where the descriptor lies within an image, in bytes."""


def described(path: Path, *changes: tuple[str, str]) -> Path:
    """Change words of the descriptor inside `path`."""
    text = path.read_bytes()[DESCRIPTOR : DESCRIPTOR + 10240].rstrip(b"\0").decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return patch(path, DESCRIPTOR, text.encode().ljust(10240, b"\0"))
