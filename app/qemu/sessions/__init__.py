"""Guests that run: the supervisor of each, and how everybody else speaks to it."""
