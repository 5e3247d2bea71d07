"""What the guest would see: partition tables, filesystems, optical discs."""
