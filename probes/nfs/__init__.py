"""What the NFS source is made of: RPC, the MOUNT service, libnfs, and the server they add up to."""
