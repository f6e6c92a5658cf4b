"""Resizing, scaling and normalising as the first nodes of a graph."""
