"""All keys, by room."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Everywhere",
        (
            ("arrows  j k", "move; PgUp, PgDn, Home and End too"),
            ("enter  right  l", "open what is under the cursor"),
            ("esc  left  h", "back one level (backspace too)"),
            ("g", "the guests that run"),
            ("?", "this help"),
            ("q", "quit; guests go on running"),
        ),
    ),
    (
        "Looking for an image",
        (
            ("b", "boot it; what the guest writes is thrown away, unless the settings say else"),
            ("w  s", "boot it for writing, which is asked first; boot a snapshot"),
            ("enter", "on an image in Ceph or Sheepdog: its snapshots, which boot as well"),
            ("o", "open any location, typed or pasted"),
            ("/", "show only the names that contain what you type"),
            ("> <", "sort by name, largest first, newest first"),
            ("v", "the whole command that would boot it, as a script"),
            ("y  Y", "copy the location, the command"),
            ("r", "read again"),
            ("m", "save the place as a bookmark; in the list n renames, d removes it"),
            ("tab", "storage, listing, description"),
        ),
    ),
    (
        "With a guest",
        (
            ("enter", "type into its serial console"),
            ("ctrl+]", "stop typing into it (Esc and Ctrl-C go to the guest)"),
            ("p", "its screen, or its serial console"),
            ("i", "what it runs, and how to see it by VNC"),
            ("x", "stop it; one that is over leaves the list"),
            ("esc", "back; the guest goes on"),
        ),
    ),
)


def help_text() -> RenderableType:
    """The help, as wide as there is room."""
    parts: list[RenderableType] = []
    for title, keys in _KEYS:
        if parts:
            parts.append(Text())
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=15)
        table.add_column(ratio=1)
        for key, meaning in keys:
            table.add_row(Text(key, "bold"), Text(meaning))
        parts += [Text(title, "bold underline"), table]
    return Group(*parts)
