"""The storage systems, one file each: list, read, and say how QEMU gets at an image."""
