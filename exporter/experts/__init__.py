"""Mixtures of experts: one opaque op a layer at export, expanded to a sparse form afterwards."""
