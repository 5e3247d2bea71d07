"""FTP: connections, listings, and reads in the middle of a file."""
