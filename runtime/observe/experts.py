"""The load of experts as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from runtime.experts.load import Horizon, evenness
from runtime.experts.summary import FloatTable, Table
from runtime.observe.snapshot import VersionSnapshot

_LABELS = ("model", "version")
_OF_LAYER = (*_LABELS, "layer")
_OF_EXPERT = (*_OF_LAYER, "expert")
_OF_PAIR = (*_OF_EXPERT, "other")
PAIRS_SHOWN = 16
"""Of a layer, the strongest."""


def expert_families(versions: Iterable[VersionSnapshot]) -> Iterator[Metric]:
    """All families, of the versions whose experts are counted; none where none are."""
    counted = [
        ((item.model, str(item.version)), item.experts)
        for item in versions
        if item.experts is not None
    ]
    if not counted:
        return
    requests = CounterMetricFamily(
        "twinport_expert_load_requests",
        "Requests of the calls that were chosen to count experts",
        labels=(*_LABELS, "outcome"),
    )
    share = GaugeMetricFamily(
        "twinport_expert_load_share", "Share of the calls that are chosen", labels=_LABELS
    )
    tokens = CounterMetricFamily(
        "twinport_expert_tokens", "Tokens that each expert computed", labels=_OF_EXPERT
    )
    window_requests = GaugeMetricFamily(
        "twinport_expert_window_requests", "Requests in the sliding window", labels=_LABELS
    )
    window = GaugeMetricFamily(
        "twinport_expert_window_tokens", "Tokens of those requests", labels=_OF_EXPERT
    )
    decayed = GaugeMetricFamily(
        "twinport_expert_decayed_tokens",
        f"Tokens, each counting half after {Horizon.half_life:,.0f} further requests",
        labels=_OF_EXPERT,
    )
    remembered = GaugeMetricFamily(
        "twinport_expert_remembered_requests",
        "Requests counted in all, before the latest start, too",
        labels=_LABELS,
    )
    pairs = GaugeMetricFamily(
        "twinport_expert_pair_requests",
        "Remembered requests in which both experts of a layer were called, estimated; "
        f"the {PAIRS_SHOWN} strongest pairs of each layer",
        labels=_OF_PAIR,
    )
    balance = GaugeMetricFamily(
        "twinport_expert_balance",
        "1 - standard deviation over mean of a layer's experts, in the window",
        labels=_OF_LAYER,
    )
    highest = GaugeMetricFamily(
        "twinport_expert_max_over_mean",
        "Busiest expert of a layer over the mean one, in the window",
        labels=_OF_LAYER,
    )
    for labels, load in counted:
        requests.add_metric((*labels, "counted"), load.requests)
        requests.add_metric((*labels, "dropped"), load.dropped)
        share.add_metric(labels, load.share)
        window_requests.add_metric(labels, load.window_requests)
        remembered.add_metric(labels, load.remembered)
        _add_table(tokens, labels, load.tokens)
        _add_table(window, labels, load.window)
        _add_table(decayed, labels, load.decayed)
        for layer, strongest in enumerate(load.pairs or ()):
            for one, other, count in strongest[:PAIRS_SHOWN]:
                pairs.add_metric((*labels, str(layer), str(one), str(other)), count)
        for layer, row in enumerate(load.window):
            even = evenness(np.array(row))
            if even is not None:
                balance.add_metric((*labels, str(layer)), even[0])
                highest.add_metric((*labels, str(layer)), even[1])
    yield from (
        requests, share, tokens, window_requests, window, decayed, remembered, pairs, balance,
        highest,
    )  # fmt: skip


def _add_table(
    family: CounterMetricFamily | GaugeMetricFamily,
    labels: tuple[str, str],
    table: Table | FloatTable,
) -> None:
    for layer, row in enumerate(table):
        for expert, count in enumerate(row):
            family.add_metric((*labels, str(layer), str(expert)), count)
