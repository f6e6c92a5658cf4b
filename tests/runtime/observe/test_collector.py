"""The text that Prometheus reads, read back with its own parser."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.observe.collector import exposition
from runtime.observe.host import Host
from runtime.observe.snapshot import Snapshot, VersionSnapshot, process_numbers, work_of
from runtime.statistics import SECONDS, CallTimes, Failure, Statistics

LABELS = {"model": "größe", "version": "2"}

TRITONS_COUNTERS = {
    "nv_inference_request_success": 2,
    "nv_inference_count": 3,
    "nv_inference_exec_count": 1,
    "nv_inference_request_duration_us": 3120,
    "nv_inference_queue_duration_us": 3000,
    "nv_inference_compute_input_duration_us": 20,
    "nv_inference_compute_infer_duration_us": 40,
    "nv_inference_compute_output_duration_us": 60,
}


@pytest.fixture(scope="module")
def text():
    statistics = Statistics()
    statistics.called(CallTimes(3, (1_000_000, 2_000_000), 10_000, 20_000, 30_000))
    statistics.failed(Failure.CANCELED, 5)
    versions = (
        VersionSnapshot("größe", 2, True, work_of(statistics, 4)),
        VersionSnapshot("größe", 3, False),
    )
    failed = {"ModelInfer NOT_FOUND": 5}
    return exposition(lambda: Snapshot(versions, failed, process_numbers()))().decode()


@pytest.fixture(scope="module")
def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family, suffix=""):
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for sample in family.samples
        if sample.name == family.name + suffix
    }


@pytest.mark.parametrize(("name", "value"), TRITONS_COUNTERS.items())
def test_counters_have_tritons_names_labels_and_units(name, value, text, families):
    assert f"# TYPE {name} counter\n" in text
    assert f'\n{name}{{model="größe",version="2"}} {value:.1f}\n' in text
    # The parser itself appends what OpenMetrics wants at the end of a counter.
    assert values(families[name], "_total") == {tuple(LABELS.items()): value}


def test_failures_have_each_of_tritons_reasons(families):
    found = {
        sample.labels["reason"]: (sample.labels["model"], sample.value)
        for sample in families["nv_inference_request_failure"].samples
    }
    assert found == {
        "REJECTED": ("größe", 0),
        "CANCELED": ("größe", 1),
        "BACKEND": ("größe", 0),
        "OTHER": ("größe", 0),
    }


def test_what_waits_is_a_gauge(families):
    family = families["nv_inference_pending_request_count"]
    assert family.type == "gauge"
    assert values(family) == {tuple(LABELS.items()): 4}


@pytest.mark.parametrize(
    ("name", "count", "total"),
    [
        ("twinport_queue_seconds", 2, 3e-3),
        ("twinport_compute_seconds", 2, 120e-6),
        ("twinport_request_seconds", 2, 3.12e-3),
        ("twinport_batch_rows", 1, 3),
    ],
)
def test_histograms_are_whole(name, count, total, families):
    family = families[name]
    assert family.type == "histogram"
    assert list(values(family, "_count").values()) == [count]
    assert list(values(family, "_sum").values()) == [pytest.approx(total)]
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    assert buckets[-1].labels["le"] == "+Inf"
    assert buckets[-1].value == count
    counted = [sample.value for sample in buckets]
    assert counted == sorted(counted)


def test_a_bucket_counts_what_is_up_to_its_bound(families):
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in families["twinport_queue_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert buckets[500e-6] == 0
    assert buckets[1e-3] == 1
    assert buckets[2.5e-3] == 2
    assert set(SECONDS) < set(buckets)


def test_every_version_says_whether_it_answers(families):
    found = {s.labels["version"]: s.value for s in families["twinport_model_ready"].samples}
    assert found == {"2": 1, "3": 0}


def test_failed_calls_are_counted_by_method_and_code(families):
    (sample,) = families["twinport_failed_calls"].samples
    assert (sample.labels, sample.value) == ({"method": "ModelInfer", "code": "NOT_FOUND"}, 5)


def test_process_and_machine_are_there(families):
    assert families["process_cpu_seconds"].type == "counter"
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert 0 <= families["nv_cpu_utilization"].samples[0].value <= 1
    used = families["nv_cpu_memory_used_bytes"].samples[0].value
    assert 0 < used < families["nv_cpu_memory_total_bytes"].samples[0].value


def test_the_use_of_the_processor_is_that_since_the_last_look(tmp_path):
    (tmp_path / "stat").write_text("cpu  100 0 100 600 200 0 0 0 7 7\ncpu0 1 1 1 1\n")
    host = Host(tmp_path)
    (tmp_path / "stat").write_text("cpu  160 0 130 605 205 0 0 0 7 7\ncpu0 1 1 1 1\n")
    assert {name: value for name, _, value in host.numbers()} == {"nv_cpu_utilization": 0.9}


def test_without_proc_the_machine_is_left_out(tmp_path):
    assert list(Host(tmp_path).numbers()) == []
