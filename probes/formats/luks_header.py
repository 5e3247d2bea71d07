"""The header of LUKS 1, as a volume's first bytes or inside a qcow2: its fields, and whether QEMU would take them.

The specification is cryptsetup's docs/on-disk-format.pdf (1.2.2); the limits are those of QEMU's crypto/block-luks.c,
which opens version 1 only and knows fewer ciphers than Linux. All numbers are big-endian.
"""

from dataclasses import dataclass
from itertools import pairwise

from probes.fields import big
from probes.image import Hazard, Verdict
from probes.text import clean

MAGIC = b"LUKS\xba\xbe"
LENGTH = 592
"""Bytes of the header."""

MAX_WORK = 100_000_000
"""Rounds of PBKDF2 that unlocking may take before somebody is asked.

A core does one to three million a second, so that is about half a minute or more. Eight key slots of cryptsetup's usual
two seconds stay well below. QEMU does them on its own thread: nothing of it answers until they are done.
"""

_SECTOR = 512
_HEADER_SECTORS = 8  # the place of the first key slot's material, 4096 bytes
_STRIPES = 4000
_SLOTS, _SLOT_LENGTH, _SLOTS_AT = 8, 48, 208
_ENABLED, _DISABLED = 0x00AC71F3, 0x0000DEAD
_DIGEST_LENGTH = 20

# QEMU's qapi/crypto.json, as of 7.2: bytes of a key or of a digest.
_CIPHERS = {"aes": (16, 24, 32), "cast5": (16,), "serpent": (16, 24, 32), "twofish": (16, 24, 32)}
_HASHES = {"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "ripemd160": 20}
_MODES = {"ecb", "cbc", "xts", "ctr"}
_IV_GENERATORS = {"plain", "plain64", "essiv"}


@dataclass(frozen=True, slots=True)
class Slot:
    """A key slot. `start` in sectors of 512 bytes."""

    state: int
    iterations: int
    start: int
    stripes: int

    @property
    def is_active(self) -> bool:
        return self.state == _ENABLED


@dataclass(frozen=True, slots=True)
class LuksHeader:
    """The header's fields, unjudged. `payload` is the start of the data in sectors of 512 bytes."""

    data: bytes

    @property
    def version(self) -> int:
        return big(self.data, 6, 2)

    @property
    def cipher(self) -> str:
        return _name(self.data, 8)

    @property
    def mode(self) -> str:
        return _name(self.data, 40)

    @property
    def hash(self) -> str:
        return _name(self.data, 72)

    @property
    def payload(self) -> int:
        return big(self.data, 104, 4)

    @property
    def key_bytes(self) -> int:
        return big(self.data, 108, 4)

    @property
    def iterations(self) -> int:
        """Those of the master key's digest: it is taken for every slot that is tried."""
        return big(self.data, 164, 4)

    @property
    def slots(self) -> tuple[Slot, ...]:
        places = range(_SLOTS_AT, _SLOTS_AT + _SLOTS * _SLOT_LENGTH, _SLOT_LENGTH)
        return tuple(Slot(*(big(self.data, at + within, 4) for within in (0, 4, 40, 44))) for at in places)

    @property
    def work(self) -> int:
        """Rounds of PBKDF2 for a passphrase that fits the last slot, or none."""
        digest = _HASHES.get(self.hash, _DIGEST_LENGTH)
        blocks, last = -(-self.key_bytes // digest), -(-_DIGEST_LENGTH // digest)
        return sum(slot.iterations * blocks + self.iterations * last for slot in self.slots if slot.is_active)

    @property
    def words(self) -> tuple[str, ...]:
        """The cipher and the hash, for a person."""
        return clean(f"{self.cipher}-{self.mode}", 40), clean(self.hash, 20)


def judge_luks(header: LuksHeader) -> tuple[Hazard, ...]:
    """Return what forbids to open it, or what should be known before its passphrase is tried."""
    wrong = _unknown(header) or _broken(header)
    if wrong:
        code, text = wrong
        return (Hazard(code, text, Verdict.REFUSE),)
    if header.work <= MAX_WORK:
        return ()
    text = (
        f"Trying a passphrase takes {header.work // 1_000_000} million rounds: minutes or hours of a processor's time, "
        "in which QEMU answers nothing."
    )
    return (Hazard("luks-iterations", text, Verdict.ASK),)


def _name(data: bytes, at: int) -> str:
    """A C string in 32 bytes; empty where it does not end."""
    raw, end, _ = data[at : at + 32].partition(b"\0")
    return raw.decode("ascii", "replace") if end else ""


def _unknown(header: LuksHeader) -> tuple[str, str] | None:
    """Return the code and the text where QEMU does not know how it is encrypted."""
    mode, _, generator = header.mode.partition("-")
    generator, named, iv_hash = generator.partition(":")
    key = header.key_bytes // 2 if mode == "xts" else header.key_bytes
    sizes = _CIPHERS.get(header.cipher, ())
    # ESSIV encrypts with the hash of the key: the cipher must take one of that length.
    essiv = generator != "essiv" or _HASHES.get(iv_hash) in sizes
    known = (
        key in sizes
        and mode in _MODES
        and generator in _IV_GENERATORS
        and header.hash in _HASHES
        and (not named or iv_hash in _HASHES)
        and (mode != "xts" or header.cipher != "cast5")  # whose blocks are too short for it
        and not header.key_bytes * _STRIPES % _SECTOR  # a key of 192 bits: QEMU 7.2 aborts when it is unlocked
    )
    if known and essiv:
        return None
    how = clean(f"{header.cipher}-{header.mode}, {header.key_bytes * 8} bits, {header.hash}", 100)
    text = f"It is encrypted in a way that QEMU does not know ({how}). Open it with cryptsetup and boot a copy."
    return ("luks-cipher", text)


def _broken(header: LuksHeader) -> tuple[str, str] | None:
    """Return the code and the text where a number in it makes no sense, as QEMU's check of the header has it."""
    if not header.payload:
        text = "It holds the keys of an encrypted disk and not the disk, which lies elsewhere (a detached header)."
        return ("luks-detached", text)
    why = _first_wrong(header)
    return ("luks-invalid", f"Its LUKS header makes no sense: {why}.") if why else None


def _first_wrong(header: LuksHeader) -> str:
    sectors = -(-header.key_bytes * _STRIPES // _SECTOR)
    sectors += -sectors % _HEADER_SECTORS
    if header.payload < _HEADER_SECTORS:
        return "the data overlap the header"
    if not header.iterations:
        return "a key of no iterations"
    slots = header.slots
    for number, slot in enumerate(slots):
        if slot.stripes != _STRIPES:
            return f"key slot {number} has {slot.stripes} stripes"
        if slot.state not in {_ENABLED, _DISABLED}:
            return f"key slot {number} is neither in use nor free"
        if slot.is_active and not slot.iterations:
            return f"key slot {number} has no iterations"
        if slot.start < _HEADER_SECTORS or slot.start + sectors > header.payload:
            return f"key slot {number} lies outside the header"
    starts = sorted(slot.start for slot in slots)
    if any(start + sectors > after for start, after in pairwise(starts)):
        return "key slots overlap"
    if not any(slot.is_active for slot in slots):
        return "no key slot is in use, so that no passphrase opens it"
    return ""
