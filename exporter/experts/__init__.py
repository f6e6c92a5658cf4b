"""Mixtures of experts: one opaque op a layer at export, expanded to a sparse form afterwards.

A user adds a layer of their own with ``moe_adapter``, which says how a module is one::

    from exporter.experts import MoESpec, Routing, moe_adapter


    @moe_adapter(MyLayer)
    def _(layer: MyLayer) -> MoESpec:
        return MoESpec(
            gate=layer.router.weight,
            routing=Routing(top_k=2),
            activation="relu",
            weights=("up", "down"),
            tensors=(layer.w1, layer.w2),
            stacked=True,
        )
"""

from exporter.experts.adapters import moe_adapter
from exporter.experts.spec import MoESpec, Routing

__all__ = ["MoESpec", "Routing", "moe_adapter"]
