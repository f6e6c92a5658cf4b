"""The calls of the inference service by concern; no transport comes in."""
