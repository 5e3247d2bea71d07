"""The application: command line, terminal application, and QEMU."""
