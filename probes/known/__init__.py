"""What this machine knows already: sources in its configuration files, and the guests that own disks."""
