"""The bridge: any image that Farboot can read, served to QEMU as NBD on a Unix socket."""
