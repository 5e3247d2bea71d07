"""`ls` and `inspect`."""

import argparse

from app.cli.meter import Meter
from app.cli.output import DONE, say, say_json, table
from app.cli.secrets import asking, read_location
from app.engine import Engine, Inspection
from probes.entry import Entry, Kind
from probes.image import Filesystem, Image, Verdict
from probes.location import Location
from probes.source import HasSnapshots
from probes.text import clean, shell_word
from probes.words import human_size, natural, short_time

_VERDICTS = {
    Verdict.OK: "ok: it can be booted",
    Verdict.ASK: "ask: it boots after a yes",
    Verdict.REFUSE: "refused",
}


def ls(engine: Engine, arguments: argparse.Namespace) -> int:
    """List a place; of an image, itself and its snapshots."""
    location = read_location(engine, arguments)
    entries = asking(engine, location, lambda: _list(engine, location))
    if arguments.json:
        say_json([entry_json(entry) for entry in entries])
        return DONE
    if entries:
        rows = [
            (human_size(e.size, e.rounded), short_time(e.modified), e.kind, shell_word(str(e.location)), clean(e.note))
            for e in entries
        ]
        for line in table(("SIZE", "MODIFIED", "KIND", "LOCATION", "NOTE"), rows, right=(0,)):
            say(line)
    return DONE


def inspect(engine: Engine, arguments: argparse.Namespace) -> int:
    """Say what an image is."""
    location = read_location(engine, arguments)
    inspection = asking(engine, location, lambda: engine.inspect(location, fetch=Meter()))
    if arguments.json:
        say_json(inspection_json(inspection))
    else:
        for line in described(inspection):
            say(line)
    return DONE


def entry_json(entry: Entry) -> dict[str, object]:
    """One row of `ls --json`."""
    row: dict[str, object] = {
        "name": entry.name,
        "location": str(entry.location),
        "kind": entry.kind.value,
        "size": entry.size,
        "modified": entry.modified.isoformat() if entry.modified else None,
        "note": entry.note,
    }
    return row | ({"size_rounded": True} if entry.rounded else {})


def inspection_json(inspection: Inspection) -> dict[str, object]:
    """The answer of `inspect --json`."""
    image = inspection.image
    return {
        "location": str(inspection.location),
        "format": image.format,
        "virtual_size": image.virtual_size,
        "file_size": image.file_size,
        "backing": {"name": image.backing.name, "format": image.backing.format} if image.backing else None,
        "chain": [
            {
                "location": str(link.location),
                "format": link.image.format,
                "virtual_size": link.image.virtual_size,
                "file_size": link.image.file_size,
            }
            for link in inspection.backing
        ],
        "needs_passphrase": image.needs_passphrase,
        "media": _media_json(image),
        "features": list(image.features),
        "hazards": [{"code": h.code, "text": h.text, "verdict": str(h.verdict)} for h in image.hazards],
        "verdict": str(image.verdict),
    }


def described(inspection: Inspection) -> list[str]:
    """The image in words, a line each."""
    image = inspection.image
    rows = [
        ("location", clean(str(inspection.location))),
        ("format", ", ".join((image.format, *image.features))),
        ("virtual size", f"{human_size(image.virtual_size)} ({image.virtual_size:,} bytes)"),
        ("file size", f"{human_size(image.file_size)} ({image.file_size:,} bytes)"),
    ]
    if image.backing:
        rows.append(("backing file", clean(image.backing.name)))
    for link in inspection.backing:
        words = ", ".join((link.image.format, *link.image.features))
        rows.append(("opened as well", clean(f"{link.location} ({words}, {human_size(link.image.virtual_size)})")))
    if image.media.summary:
        rows.append(("media", clean(image.media.summary)))
    for part in image.media.partitions:
        held = f", {part.filesystem.type} {part.filesystem.label}" if part.filesystem else ""
        rows.append(
            (f"partition {part.number}", clean(f"{human_size(part.size)}, {part.type} {part.name}".strip() + held))
        )
    rows += [(f"{hazard.verdict}", hazard.text) for hazard in image.hazards]
    rows.append(("verdict", _VERDICTS[image.verdict]))
    width = max(len(label) for label, _ in rows) + 1
    return [f"{label + ':':{width}} {clean(text)}" for label, text in rows]


def _list(engine: Engine, location: Location) -> list[Entry]:
    with engine.open_source(location) as source:
        if not location.is_container:
            entry = source.stat(location)
            if entry.kind is not Kind.CONTAINER:
                more = source.snapshots(location) if isinstance(source, HasSnapshots) else ()
                return [entry, *more]
            location = entry.location
        return sorted(source.entries(location), key=lambda entry: natural(entry.name.casefold()))


def _media_json(image: Image) -> dict[str, object]:
    media = image.media
    return {
        "kind": media.kind.value,
        "table": media.table,
        "firmware": sorted(media.firmware) if media.firmware is not None else None,
        "filesystem": _filesystem_json(media.filesystem),
        "partitions": [
            {
                "number": part.number,
                "start": part.start,
                "size": part.size,
                "type": part.type,
                "name": part.name,
                "bootable": part.bootable,
                "filesystem": _filesystem_json(part.filesystem),
            }
            for part in media.partitions
        ],
    }


def _filesystem_json(filesystem: Filesystem | None) -> dict[str, str] | None:
    if filesystem is None:
        return None
    return {"type": filesystem.type, "label": filesystem.label, "uuid": filesystem.uuid}
