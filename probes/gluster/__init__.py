"""GlusterFS, by libgfapi: what `probes.sources.gluster` is made of."""
