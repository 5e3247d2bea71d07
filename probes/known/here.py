"""Who on this host uses an image by another way than its location names: as a device of the kernel's own iSCSI
initiator, or as a file on an NFS mount. Its server tells nobody of them.
"""

from probes.host.use import use_of
from probes.known.identity import Identities
from probes.known.root import Root
from probes.location import Location
from probes.text import clean


def users_here(location: Location, root: Root | None = None) -> tuple[str, ...]:
    """Return who uses the image, as short texts. Blocks as long as a mount's server does; never raises for a path that
    cannot be looked at.
    """
    root = root or Root()
    found: dict[str, None] = {}
    for path in Identities(root).paths_here(location):
        try:
            users = use_of(root.inside(path)).users
        except OSError:
            continue
        found |= dict.fromkeys(f"{user} (here it is {clean(path)})" for user in users)
    return tuple(found)
