"""TFTP: transfers, and the text files that name what lies on a server."""
