"""What this host can do: QEMU, its drivers, accelerator and firmware, memory, and what is missing."""
