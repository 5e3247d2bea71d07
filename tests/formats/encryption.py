"""Encrypted images made by qemu-img."""

from pathlib import Path

from tests.formats.images import qemu_img_create

PASSPHRASE = "correct horse"


def create_encrypted(path: Path, size: str, driver: str, *options: str) -> Path:
    """Make an image whose passphrase is `PASSPHRASE`; `options` are those of `-o`, without what every one needs.

    qemu-img measures how fast it is, and now and then fails to on a busy machine: it is asked again.
    """
    before = "" if driver == "luks" else "encrypt."
    needed = [f"{before}key-secret=key", f"{before}iter-time=10", *(["encrypt.format=luks"] if before else [])]
    words = ("--object", f"secret,id=key,data={PASSPHRASE}", "-o", ",".join([*needed, *options]))
    for _ in range(4):
        try:
            return qemu_img_create(path, size, driver, *words)
        except AssertionError:
            path.unlink(missing_ok=True)
    return qemu_img_create(path, size, driver, *words)
