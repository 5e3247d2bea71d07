"""What speaking to a server over a socket takes, whatever the protocol: bounds, and names for what goes wrong."""
