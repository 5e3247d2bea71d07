"""An image with its backing images: each judged where it lies, and nothing followed that leads anywhere else.

A backing image is opened only beside the image that names it, in the same folder of the same server or below it, and
its name is taken as it stands, whatever it would mean in a URL. What it claims to be it must be: a raw disk whose guest
has written a qcow2 header into it is no qcow2, and what this header names is not opened.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from probes.errors import Denied, NotAContainer, NotAnImage, NotFound
from probes.evidence import Evidence
from probes.host.files import within
from probes.identify import guest_disk, identify, with_media
from probes.image import Hazard, Image, Verdict
from probes.location import Location
from probes.mapping import CannotMap
from probes.media.look import Findings, examine
from probes.reader import Pin, Reader, is_openly_below
from probes.recording import OverBudget, RecordingReader
from probes.source import DEADLINE
from probes.text import clean
from probes.words import human_size

LONGEST = 8
"""Backing images that are followed: more than that nobody keeps, and QEMU would open them one in the other."""

_WITH_FOLDERS = frozenset({
    "file", "http", "https", "ftp", "ftps", "tftp", "nfs", "ssh", "sftp", "gluster",
})  # fmt: skip
_SHOWN, _LEAST_SHOWN = 200, 50
_RAW_NAMES = (".raw", ".img", ".dd")


@dataclass(frozen=True, slots=True)
class Link:
    """One image of a chain: what it is, and the bytes that this was read from."""

    location: Location
    image: Image
    pin: Pin
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _Opened:
    link: Link
    reader: RecordingReader


def judge_chain(location: Location, open_image: Callable[[Location], Reader]) -> tuple[Link, ...]:
    """Judge the image at `location` and the images that it needs, its backing image first. `open_image` opens each.

    The first one's hazards are those of all: with REFUSE among them the others are as many as could be followed, and
    none may be opened. Its media are what the guest would see, through the whole chain. Raises what `open_image` and
    reading raise, but for a backing image that is not there, or that one may not read: that is a hazard.
    """
    with ExitStack() as stack:

        def judge(place: Location) -> _Opened:
            recording = RecordingReader(open_image(place))
            stack.callback(recording.close)
            image = identify(recording, look_inside=place == location)
            return _Opened(Link(place, image, recording.pin, Evidence.by(recording.evidence)), recording)

        first = judge(location)
        if first.link.image.backing is None or first.link.image.verdict is Verdict.REFUSE:
            return (first.link,)
        chain, refusal = _follow(first, judge)
        image = replace(first.link.image, hazards=_hazards([opened.link for opened in chain], refusal))
        if refusal is None:
            found = _look_through(chain)
            image = with_media(image, found) if found is not None else image
        below = (replace(opened.link, image=replace(opened.link.image, hazards=())) for opened in chain[1:])
        return (replace(first.link, image=image), *below)


def beside(location: Location, name: str) -> Location | None:
    """Return where the image lies that the one at `location` calls `name`: in its folder, or below.

    None if there is no such place: its storage has no folders, or a link leads out of them. `name` is one that
    `probes.backing.judge_name` does not refuse. Raises TimedOut where this host's disk does not answer.
    """
    folder = location.parent
    if location.scheme not in _WITH_FOLDERS or folder is None:
        return None
    if location.scheme == "file":
        return within(DEADLINE, "look at", location, lambda: _below(folder.path, name))
    place = folder
    for part in name.split("/"):
        if part not in {"", "."}:
            place = place.child(part)
    return place if place != folder else None


def _below(folder: str, name: str) -> Location | None:
    real = os.path.realpath(folder)
    found = os.path.realpath(os.path.join(real, name))
    return Location("file", path=found) if is_openly_below(found, real) else None


def _follow(first: _Opened, judge: Callable[[Location], _Opened]) -> tuple[list[_Opened], Hazard | None]:
    """Return the chain from `first` on as far as it could be followed, and why no further, if that is a reason to
    refuse it.
    """
    chain = [first]
    while (backing := chain[-1].link.image.backing) is not None:
        name = clean(backing.name, _SHOWN)
        place = beside(chain[-1].link.location, backing.name)
        if place is None:
            return chain, _refuse("outside", f"It needs a backing image, {name}, {_nowhere(chain[-1].link.location)}")
        if any(_is_one(place, opened.link.location) for opened in chain):
            return chain, _refuse("endless", f"Its backing images go in a circle: {name} is needed for itself")
        if len(chain) > LONGEST:
            text = f"It has more than {LONGEST} backing images, one behind the other (qemu-img convert makes it one)"
            return chain, _refuse("endless", text)
        try:
            parent = judge(place)
        except (NotFound, NotAnImage, NotAContainer):
            return chain, _refuse("missing", f"It needs a backing image, {name}, and that is not there")
        except Denied as error:
            return chain, _refuse("denied", f"It needs a backing image, {name}, and that cannot be read: {error.why}")
        folder = chain[-1].link.location.parent
        if folder is not None and not parent.reader.lies_below(folder):
            return chain, _refuse("outside", f"It needs a backing image, {name}, {_nowhere(folder)}")
        chain.append(parent)
        found = parent.link.image
        if found.verdict is Verdict.REFUSE:
            return chain, None  # its own hazards say why
        if backing.format is not None and backing.format != found.format:
            text = (
                f"It says that its backing image {name} is {clean(backing.format, 20)}, and that is {found.format}: a"
                " guest may have written what makes it seem so. If it is really that, qemu-img rebase -u -F"
                f" {found.format} sets it right"
            )
            return chain, _refuse("format", text)
    return chain, None


def _nowhere(location: Location) -> str:
    if location.scheme in {"http", "https"}:
        return "and its server leads to another one for it: that is not followed (open the image itself there)"
    if location.scheme in _WITH_FOLDERS:
        return "and that does not lie in its folder: a link out of it, or to what is hidden, is not followed"
    return "and where it is stored there are no folders in which that could lie beside it"


def _is_one(place: Location, other: Location) -> bool:
    if place == other:
        return True
    if place.scheme != "file":
        return False
    try:
        return os.path.samefile(place.path, other.path)
    except OSError:  # which opening it tells
        return False


def _refuse(code: str, text: str) -> Hazard:
    return Hazard(f"backing-{code}", f"{text}.", Verdict.REFUSE)


def _hazards(chain: list[Link], refusal: Hazard | None) -> tuple[Hazard, ...]:
    """The hazards of them all, told of the first; one question for all that will be opened."""
    own, *below = chain
    found = [hazard for hazard in own.image.hazards if hazard.code != "backing-file"]
    for link in below:
        name = _shown(link, own)
        for hazard in link.image.hazards:
            if hazard.code != "backing-file":
                text = f"Of its backing image {name}: {hazard.text[:1].lower()}{hazard.text[1:]}"
                found.append(replace(hazard, text=text))
    if refusal is not None:
        return (refusal, *found)
    return (
        (*found, _question(own, below))
        if all(link.image.verdict is not Verdict.REFUSE for link in below)
        else (*found,)
    )


def _question(own: Link, below: list[Link]) -> Hazard:
    most = max(_SHOWN // len(below), _LEAST_SHOWN)  # all of it is to be seen at once
    told = [f"{_shown(link, own, most)} ({link.image.format}, {human_size(link.image.virtual_size)})" for link in below]
    if len(told) == 1:
        text = f"It needs a backing image beside it, {told[0]}: that is opened as well."
    else:
        listed = f"{', '.join(told[:-1])} and {told[-1]}"
        text = f"It needs {len(told)} backing images beside it, {listed}: they are opened as well."
    if own.location.name.lower().endswith(_RAW_NAMES):
        text += " Its name is that of a raw disk: a guest that had it as one may have written this there; then say no."
    return Hazard("backing-file", text, Verdict.ASK)


def _shown(link: Link, own: Link, most: int = _SHOWN) -> str:
    """Where a backing image lies, seen from the folder of the first one: a link there may lead to another name. Of a
    path too long to show its end is what tells.
    """
    folder = own.location.decoded_path.rpartition("/")[0] + "/"
    path = clean(link.location.decoded_path.removeprefix(folder))
    return path if len(path) <= most else f"…{path[1 - most :]}"


def _look_through(chain: list[_Opened]) -> Findings | None:
    """Look at what the guest would find, whichever of the images holds it; None where that cannot be told."""
    disk: Reader | None = None
    try:
        for opened in reversed(chain):
            disk = guest_disk(opened.link.image, opened.reader, disk)
        return examine(disk) if disk is not None else None
    except (CannotMap, OverBudget):
        return None
