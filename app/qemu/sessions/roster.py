"""The sessions of this host: read from their folders, without asking their supervisors, and the dead ones buried."""

import json
import time
from contextlib import suppress
from dataclasses import replace

from app.qemu.sessions import folders
from app.qemu.sessions.folders import Folder
from app.qemu.sessions.sameness import same_as
from app.qemu.sessions.wire import SessionInfo, SessionState, to_line
from probes.attachment import Mode
from probes.errors import FarbootError, NotFound
from probes.location import Location

STORY_KEPT = 3600.0
"""Seconds that a session which is over stays in the list."""
MOST_STORIES = 50
"""Sessions that are over which the list holds; older ones leave it."""
_STATE_LIMIT = 256 << 10


def sessions() -> list[SessionInfo]:
    """Return all sessions, oldest first, as their supervisors last told. Cheap: no supervisor is asked.

    Those whose supervisor was killed are told as failed, and cleared away.
    """
    found = []
    with folders.runtime_root() as root:
        for name in folders.names_in(root):
            folder = folders.open_in(root, name)
            if folder is None:
                continue
            with folder:
                info = _read_state(root, folder, name)
            if info is not None:
                found.append(info)
        over = sorted((info for info in found if info.is_over), key=lambda info: info.ended)
        for info in over[:-MOST_STORIES]:
            folders.remove_tree(root, info.id)
            found.remove(info)
    return sorted(found, key=lambda info: info.started)


def guests_of(location: Location, mode: Mode | None = None) -> list[SessionInfo]:
    """Return the guests of this host that have the image at `location`, of that mode only if one is given. Without one
    those count too that read it as a backing image of their own.

    `app.qemu.sessions.sameness` says when two locations are one image.
    """
    alive = [info for info in _sessions_if_any() if not info.is_over and (mode is None or info.mode == mode.value)]
    held = [(info, text) for info in alive for text in (info.location, *(info.backing if mode is None else ()))]
    same = same_as(location, [text for _, text in held])
    found = {info.id: info for (info, _), is_same in zip(held, same, strict=True) if is_same}
    return list(found.values())


def sweep() -> None:
    """Clear away what guests left behind whose supervisor did not live to do it."""
    alive = {info.id for info in sessions() if not info.is_over}
    with folders.state_root() as states:
        for name in folders.names_in(states):
            if name not in alive:
                folders.remove_dead(states, name)


def find(identity: str) -> SessionInfo:
    """Return the session with this id, or the only one whose id begins so. Raises NotFound."""
    found = sessions()
    matching = [info for info in found if info.id == identity] or [i for i in found if i.id.startswith(identity)]
    if not identity or not matching:
        others = ", ".join(info.id for info in found)
        hint = f"there is {others}" if others else ""
        raise NotFound("find", f"the guest {identity}", "there is none of that name", hint)
    if len(matching) > 1:
        several = ", ".join(info.id for info in matching)
        raise NotFound("find", f"the guest {identity}", "several guests begin like that", several)
    return matching[0]


def known(identity: str) -> SessionInfo:
    """The session with exactly this id."""
    found = next((info for info in sessions() if info.id == identity), None)
    if found is None:
        raise NotFound("find", f"the guest {identity}", "there is none of that name")
    return found


def read_log(identity: str, limit: int) -> bytes:
    """The last `limit` bytes of what the guest said on its serial line. Raises NotFound."""
    info = known(identity)
    with folders.runtime_root() as root:
        folder = folders.open_in(root, info.id)
        if folder is None:
            raise NotFound("read the log of", info.id, "it is gone")
        with folder:
            try:
                return folder.read(folders.LOG, limit, -limit) if limit > 0 else b""
            except FileNotFoundError:
                return b""


def dismiss(identity: str) -> None:
    """Take a session that is over out of the list."""
    with folders.runtime_root() as root:
        folders.remove_tree(root, identity)


def _sessions_if_any() -> list[SessionInfo]:
    try:
        return sessions()
    except FarbootError:  # the folder of sessions cannot be used: nobody has started any there
        return []


def _read_state(root: Folder, folder: Folder, name: str) -> SessionInfo | None:
    try:
        info = SessionInfo.from_json(json.loads(folder.read(folders.STATE, _STATE_LIMIT)))
    except (OSError, ValueError):
        info = None
    if folder.is_alive():
        return info
    if info is None:
        folders.remove_tree(root, name)
        return None
    if not info.is_over:  # it may have told its end between our reading and now
        with suppress(OSError, ValueError):
            info = SessionInfo.from_json(json.loads(folder.read(folders.STATE, _STATE_LIMIT)))
    if not info.is_over:
        info = _bury(folder, info)
    if time.time() - info.ended > STORY_KEPT:
        folders.remove_tree(root, name)
        return None
    return info


def _bury(folder: Folder, info: SessionInfo) -> SessionInfo:
    """Tell the end of a session whose supervisor was killed, and remove its guest's folder."""
    why = "its supervisor was killed, and the guest with it"
    info = replace(info, state=SessionState.FAILED, error=why, pid=None, ended=time.time())
    with suppress(OSError):  # somebody else may be doing the same
        folder.write(folders.STATE, to_line(info.to_json()))
    with suppress(FarbootError), folders.state_root() as states:
        folders.remove_dead(states, info.id)
    return info
