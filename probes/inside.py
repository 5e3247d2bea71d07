"""What lies inside something that is compressed, in words: as far as its first bytes tell."""

from dataclasses import replace

from probes.formats import magics
from probes.formats.packed import Inside
from probes.image import Image, MediaKind, Verdict
from probes.reader import Pin, Reader
from probes.words import human_size

_UNKNOWN_SIZE = 1 << 50  # bytes: more than anything that an image says of itself would reach beyond


class PrefixReader(Reader):
    """The first bytes of something of `size` bytes (0: nobody knows); the rest of it reads as zeros."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self._pin = Pin(max(size, len(data)) if size else _UNKNOWN_SIZE)

    def pread(self, offset: int, length: int) -> bytes:
        length = max(min(length, self.size - offset), 0)
        return self._data[offset : offset + length].ljust(length, b"\0")

    def close(self) -> None:
        pass


def described(image: Image) -> Inside | None:
    """Say what `image` is, of which only the first bytes were seen; None for what may be anything."""
    words = _words(image)
    return Inside(image.format, words) if words else None


def _words(image: Image) -> str:
    codes = {hazard.code for hazard in image.hazards}
    if "archive" in codes:
        return f"{_article(image.format)} archive" + (f" holding {', '.join(image.features)}" if image.features else "")
    if "compressed" in codes:
        return f"something compressed with {image.format}"
    if image.format == "raw":
        return _raw(image, codes)
    if codes & {"format-unsupported", "not-an-image"}:
        return magics.title(image.format)
    size = f" of {human_size(image.virtual_size)}" if image.virtual_size and image.verdict is not Verdict.REFUSE else ""
    return f"{_article(image.format)} image{size}"


def _raw(image: Image, codes: set[str]) -> str:
    if "linux-kernel" in codes:
        return "a Linux kernel, as it seems"
    media = image.media
    if not (media.table or media.filesystem or media.firmware):
        return ""
    if not media.firmware:  # what starts it may lie further behind
        media = replace(media, firmware=None)
    if media.kind is MediaKind.CD:
        return f"a disc ({replace(media, kind=MediaKind.UNKNOWN).summary})"
    return f"a raw disk ({media.summary})"


def _article(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
