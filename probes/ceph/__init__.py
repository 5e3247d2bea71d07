"""Ceph, as the rbd source needs it: logging in, and reading a pool in bulk."""
