"""A server seen from its metrics."""
