"""Sheepdog: its wire protocol, a cluster, and its volumes."""
