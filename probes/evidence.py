"""The bytes that a verdict was drawn from, in few words: so that whoever opens the image later can compare them."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from probes.reader import Reader
from probes.recording import MAX_BYTES, MAX_READS

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SPAN = re.compile(r"(\d{1,19})\+(\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the bytes lie, as (offset, length), in order and none of them touching; and the hex SHA-256 of them all.

    One without a digest is of an image that nobody judged, and false; it agrees with anything.
    """

    spans: tuple[tuple[int, int], ...] = ()
    digest: str = ""

    @staticmethod
    def by(pieces: Iterable[tuple[int, bytes]]) -> "Evidence":
        """What these pieces, (offset, bytes) in order, are in few words."""
        whole, spans = hashlib.sha256(), []
        for offset, data in pieces:
            whole.update(data)
            spans.append((offset, len(data)))
        return Evidence(tuple(spans), whole.hexdigest())

    @staticmethod
    def parse(text: str) -> "Evidence":
        """What `str` gave. Raises ValueError for anything else."""
        listed, colon, digest = text.rpartition(":")
        if not text:
            return NOT_JUDGED
        found = [_SPAN.fullmatch(span) for span in listed.split(",")] if listed else []
        spans = tuple((int(match[1]), int(match[2])) for match in found if match)
        if not colon or not _DIGEST.fullmatch(digest) or len(spans) != len(found):
            raise ValueError("not what was judged")
        if len(spans) > MAX_READS or sum(length for _, length in spans) > MAX_BYTES:
            raise ValueError("more than any judgement reads")
        return Evidence(spans, digest)

    def __str__(self) -> str:
        if not self:
            return ""
        return ",".join(f"{offset}+{length}" for offset, length in self.spans) + f":{self.digest}"

    def __bool__(self) -> bool:
        return bool(self.digest)

    def agrees(self, reader: Reader) -> bool:
        """Whether `reader` has the very same bytes there. Raises what `reader` raises."""
        if not self:
            return True
        return Evidence.by((offset, reader.pread(offset, length)) for offset, length in self.spans) == self


NOT_JUDGED = Evidence()
