"""Opening a storage anew under a guest that waits: for drivers of QEMU's that never find back to their server.

A fresh protocol node takes the place of the dead one below the format node (`blockdev-reopen`, since QEMU 6.1), and the
guest above it goes on as if nothing had been. What the node refers to (secrets, TLS, the ssh agent) is still there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from app.qemu.sessions.qmp import Monitor
from probes.errors import FarbootError

NEVER_BACK: Mapping[str, str] = {
    "ssh": "libssh's session ends with its connection, and the driver opens no other",
}
"""Protocol drivers whose node is dead for good once its connection broke, and why. All others find back, the latest
when the guest tries again (`tests/systems/test_outages.py`).
"""

Node = Mapping[str, object]


class Renewal:
    """The protocol nodes of one guest that must be renewed after an outage; `argv` is QEMU's own."""

    def __init__(self, argv: Sequence[str]) -> None:
        nodes = {str(node["node-name"]): node for node in _nodes(argv)}
        self._users = [
            (user, nodes[str(user["file"])])
            for user in nodes.values()
            if str(user.get("file")) in nodes and nodes[str(user["file"])].get("driver") in NEVER_BACK
        ]
        self._current = {str(protocol["node-name"]): str(protocol["node-name"]) for _, protocol in self._users}
        self._count = 0

    @property
    def needed(self) -> bool:
        """Whether there is any such node."""
        return bool(self._users)

    async def renew(self, monitor: Monitor) -> None:
        """Put a fresh node below each format node. Raises FarbootError in QEMU's words when the server is still away;
        then everything is as it was.
        """
        for user, protocol in self._users:
            name = str(protocol["node-name"])
            self._count += 1
            fresh, old = f"{name}-{self._count}", self._current[name]
            await monitor.execute("blockdev-add", {**protocol, "node-name": fresh})
            try:
                await monitor.execute("blockdev-reopen", {"options": [{**user, "file": fresh}]})
            except FarbootError:
                await _drop(monitor, fresh)
                raise
            self._current[name] = fresh
            await _drop(monitor, old)


async def _drop(monitor: Monitor, node: str) -> None:
    """Remove a node that nobody uses any more. One that will not go stays, and hurts nobody."""
    try:
        await monitor.execute("blockdev-del", {"node-name": node})
    except FarbootError:
        return


def _nodes(argv: Sequence[str]) -> Iterator[Node]:
    for word, value in pairwise(argv):
        if word == "-blockdev":
            yield json.loads(value)
