"""The keys for the location that is pointed at: copy it, save it, give what was saved another name, forget it."""

from typing import ClassVar

from textual.binding import Binding, BindingType

from app.screens.boots import Boots
from app.screens.folder import Folder
from app.screens.places_pane import PlacesPane
from probes.location import Location
from widgets.listing import Listing
from widgets.places import PlacesView


class Pointing(Boots):
    """A room with places and a listing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "rename", "Rename"),
        Binding("d", "remove", "Remove"),
        Binding("y", "copy_location", "Copy", show=False),
        Binding("m", "bookmark", "Bookmark", show=False),
    ]

    _pane: PlacesPane

    @property
    def places(self) -> PlacesView:
        """The pane on the left."""
        return self.query_one(PlacesView)

    @property
    def listing(self) -> Listing:
        """The pane in the middle."""
        return self.query_one(Listing)

    @property
    def folder(self) -> Folder | None:
        """The place that is shown."""
        raise NotImplementedError

    @property
    def pointed_at(self) -> Location | None:
        """The location under the cursor, or of the place."""
        if self.focused is self.places:
            return self.places.place.location if self.places.place else None
        entry = self.listing.entry
        return entry.location if entry else self.folder.location if self.folder else None

    def allows_change(self, action: str) -> bool:
        """Whether the place under the cursor can be renamed, or removed."""
        kind = self.places.place.kind if self.places.place is not None else ""
        return self.focused is self.places and (kind == "bookmark" or (kind == "used" and action == "remove"))

    def action_bookmark(self) -> None:
        """Save the place under the cursor, or the one around it, under a name."""
        location = self.pointed_at
        if location is not None:
            self._pane.save(location, location.title)

    def action_rename(self) -> None:
        """Give a saved place another name."""
        self._pane.rename(self.places.place)

    def action_remove(self) -> None:
        """Take a place off the list."""
        self._pane.remove(self.places.place)

    def action_copy_location(self) -> None:
        """Copy the location under the cursor, or of the place."""
        location = self.pointed_at
        if location is not None:
            self.farboot.copy("The location", str(location))
