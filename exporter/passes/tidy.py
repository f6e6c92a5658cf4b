"""The passes that every graph goes through as it comes from torch, in their order."""

from __future__ import annotations

from exporter.passes.drop_dead_code import drop_dead_code
from exporter.passes.fold_constants import fold_constants
from exporter.passes.fuse_batchnorm import fuse_batchnorm
from exporter.passes.merge_duplicates import merge_duplicates
from exporter.passes.run import Pass
from exporter.passes.simplify import simplify

TIDY: tuple[Pass, ...] = (
    drop_dead_code,
    fold_constants,
    simplify,
    fold_constants,  # what the shorter patterns left to compute
    fuse_batchnorm,
    merge_duplicates,
    drop_dead_code,
)
