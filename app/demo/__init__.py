"""The demonstration: real bootable images on a loopback web server."""
