"""QEMU: plan a boot, launch it, keep its sessions."""
