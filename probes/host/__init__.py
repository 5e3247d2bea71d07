"""This host, as the file and device sources need it: bounded calls into the kernel, lsblk, and who uses what."""
