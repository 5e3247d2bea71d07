"""What is asserted of judgements."""

import subprocess
from pathlib import Path

from probes.identify import identify
from probes.image import Image, Verdict
from probes.recording import MAX_BYTES, MAX_READS, RecordingReader
from probes.text import is_clean
from tests.formats.images import codes
from tests.formats.readers import MemoryReader


def sound(image: Image, recorder: RecordingReader) -> None:
    """What holds for every judgement."""
    assert recorder.reads <= MAX_READS
    assert recorder.bytes_read <= MAX_BYTES
    assert image.file_size == recorder.size
    assert image.virtual_size >= 0
    assert isinstance(image.verdict, Verdict)
    shown = [image.format, image.media.summary, *image.features, *(hazard.text for hazard in image.hazards)]
    for part in image.media.partitions:
        shown += [part.name, part.type]
    for filesystem in (image.media.filesystem, *(part.filesystem for part in image.media.partitions)):
        shown += [filesystem.type, filesystem.label, filesystem.uuid] if filesystem else []
    assert all(is_clean(text) for text in shown)


def judge_bytes(data: bytes) -> Image:
    """Judge an image in memory, soundly."""
    recorder = RecordingReader(MemoryReader(data))
    image = identify(recorder)
    sound(image, recorder)
    return image


def refused_as(driver: str, image: Image, code: str, alone: bool = True) -> None:
    """It is known as what it is and refused for `code`, `alone` for nothing else."""
    assert image.format == driver
    assert codes(image) == {code} if alone else code in codes(image), image.hazards
    assert image.verdict is Verdict.REFUSE
    assert all(hazard.text.isprintable() for hazard in image.hazards)


def opens_as(driver: str, path: Path) -> bool:
    """Whether QEMU opens it, to look at it and no more."""
    return subprocess.run(["qemu-img", "info", "-f", driver, path], capture_output=True, check=False).returncode == 0
