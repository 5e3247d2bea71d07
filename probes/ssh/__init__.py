"""SSH: configuration, host keys, logging in, and SFTP. What is here speaks to paramiko, not to Farboot's screens."""
