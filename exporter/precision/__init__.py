"""Artifacts of a lower precision: fp16 and bf16 by types in the graph, int8 by Q and DQ nodes."""
