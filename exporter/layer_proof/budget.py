"""Modules over a budget of noise, for artifacts of lower precision than float32."""

from __future__ import annotations

import math

from exporter.layer_proof.records import LayerProof, LayerRow


def local_snr_db(row: LayerRow) -> float:
    """Signal-to-noise ratio of a module's own error, in dB against its float64 answer.

    Infinite where the module is exact, minus infinity where its answer is no number.
    """
    if row.local.verdict == "failed" and row.local.rms_factor is None:
        return -math.inf
    relative = row.local.relative_rms or 0.0
    return -20 * math.log10(relative) if relative else math.inf


def modules_over(proof: LayerProof, least_db: float) -> tuple[str, ...]:
    """Modules with more noise of their own than a budget allows, in graph order.

    Args:
        proof: Of the artifact in the lower precision.
        least_db: The budget; a module below it is over.
    """
    over = (row for row in proof.rows if not local_snr_db(row) >= least_db)
    return tuple(dict.fromkeys(row.module for row in over))
