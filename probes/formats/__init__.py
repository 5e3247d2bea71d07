"""The image formats, one file each: recognise, describe, judge."""
