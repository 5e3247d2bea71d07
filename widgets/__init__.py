"""The widgets, one file each: they know values, not protocols."""
