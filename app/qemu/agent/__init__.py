"""An ssh agent for one guest's QEMU: it signs with one key, to log in as one user, and does nothing else."""
