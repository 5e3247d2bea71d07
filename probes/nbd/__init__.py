"""NBD, by libnbd: what `probes.sources.nbd` is made of."""
