"""Whole copies of images that cannot be read in the middle where they lie."""
