"""Replicas that do not pay for their memory are taken out."""

from __future__ import annotations

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.certificate import cost_of
from runtime.experts.moves import dispensable
from runtime.experts.outlook import Outlook
from runtime.experts.shares import leveled

_PARTS = (1, 2, 4, 8, 16)
"""All candidates are tried at once, then half of them, and so on."""


def thinned(
    keys: IntArray, amount: FloatArray, outlook: Outlook, memory: float
) -> tuple[IntArray, FloatArray]:
    """Take out replicas as long as the cost falls.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        amount: ``[replicas]`` load of each.
        outlook: What is expected.
        memory: What one replica of every expert costs.

    Returns:
        Keys and amounts of what is left.
    """
    cost = cost_of(keys, amount, outlook, memory).total
    while True:
        at, worth = dispensable(keys, amount, outlook, 0.0)
        at = at[np.argsort(worth, kind="stable")]
        for part in _PARTS:
            kept = np.delete(keys, at[: -(-len(at) // part)])
            again = leveled(kept, outlook)
            less = cost_of(kept, again, outlook, memory).total
            if len(at) and less < cost:
                keys, amount, cost = kept, again, less
                break
        else:
            return keys, amount
