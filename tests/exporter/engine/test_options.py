"""Options: what no library takes, and what this one would take in silence and not follow."""

from __future__ import annotations

import pytest

from exporter.engine.after_export import EngineWish
from exporter.engine.library import TRAITS, Library, open_library
from exporter.engine.options import EngineOptions, check_options, known_capabilities
from exporter.engine.parse import open_session
from runtime.backends import cuda
from runtime.backends.plan import FLAVOURS
from runtime.errors import BackendUnavailable, InvalidInput, UsageProblem


class Named:
    """Stands in for a module where only its version is asked for."""

    def __init__(self, version: str) -> None:
        self.__version__ = version


@pytest.mark.parametrize(
    "options",
    [
        {"optimization_level": 6}, {"workspace_bytes": 0}, {"workspace_bytes": 2**64},
        {"hardware_compatibility": "all"},
        {"compute_capabilities": ("sm89",)}, {"compute_capabilities": ("8.9", "8.9")},
    ],
)  # fmt: skip
def test_what_no_library_takes_is_refused(options):
    with pytest.raises(InvalidInput):
        EngineOptions(**options)


def test_rtx_refuses_what_it_would_not_follow(rtx, tmp_path):
    check_options(EngineOptions(compute_capabilities=("8.9",)), rtx)
    with pytest.raises(UsageProblem, match="has no timing cache"):
        check_options(EngineOptions(timing_cache=tmp_path / "cache"), rtx)
    with pytest.raises(UsageProblem, match="own version only; leave --version-compatible out"):
        check_options(EngineOptions(version_compatible=True), rtx)
    with pytest.raises(UsageProblem, match="name the GPUs with --compute-capability"):
        check_options(EngineOptions(hardware_compatibility="ampere_plus"), rtx)
    with pytest.raises(
        InvalidInput, match=r"no target for compute capability 9\.0; it has 7\.5, 8"
    ):
        check_options(EngineOptions(compute_capabilities=("9.0",)), rtx)


def test_the_full_library_refuses_named_gpus_and_caches_without_a_folder(tmp_path):
    full = Library(FLAVOURS["tensorrt"], "11.4.0.1", Named("11.4.0.1"))
    wanted = EngineOptions(
        timing_cache=tmp_path / "cache", hardware_compatibility="ampere_plus",
        version_compatible=True,
    )  # fmt: skip
    check_options(wanted, full)
    with pytest.raises(UsageProblem, match="use --hardware-compatibility"):
        check_options(EngineOptions(compute_capabilities=("8.9",)), full)
    with pytest.raises(InvalidInput, match="make its folder first"):
        check_options(EngineOptions(timing_cache=tmp_path / "no" / "cache"), full)
    with pytest.raises(InvalidInput, match="is a folder"):
        check_options(EngineOptions(timing_cache=tmp_path), full)


def test_the_full_library_is_not_asked_for_a_builder_without_a_gpu(monkeypatch, rtx):
    monkeypatch.setattr(cuda, "device_problem", lambda: "no NVIDIA driver is installed")
    full = Library(FLAVOURS["tensorrt"], "11.4.0.1", Named("11.4.0.1"))
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA driver.*--flavour tensorrt-rtx"):
        open_session(full)
    monkeypatch.setattr("exporter.engine.after_export.open_library", lambda _: full)
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver"):
        EngineWish("tensorrt").check((), {})
    assert open_session(rtx).builder is not None


def test_a_library_that_makes_no_builder_says_so_in_one_line(monkeypatch, rtx):
    def no_builder(log):
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(rtx.api, "Builder", no_builder)
    with pytest.raises(BackendUnavailable, match="makes no builder here: factory function"):
        open_session(rtx)


def test_gpus_are_named_by_their_compute_capability(rtx):
    known = known_capabilities(rtx)
    assert known["8.9"] == "SM89"
    assert known["12.0"] == "SM120"
    assert "9.0" not in known


def test_every_flavour_has_its_traits():
    assert set(TRAITS) == set(FLAVOURS)


@pytest.fixture
def installed(monkeypatch):
    """What is installed, by stand-ins in the place of the modules."""
    import sys

    def only(**versions):
        for name in FLAVOURS:
            version = versions.get(name)
            monkeypatch.setitem(sys.modules, name, Named(version) if version else None)

    return only


def test_the_full_library_is_taken_first(installed):
    installed(tensorrt="11.4.0.1", tensorrt_rtx="1.7.1.1")
    assert open_library().title == "TensorRT 11.4.0.1"
    assert open_library("tensorrt_rtx").title == "TensorRT-RTX 1.7.1.1"
    installed(tensorrt_rtx="1.7.1.1")
    assert open_library().flavour.name == "tensorrt_rtx"


def test_a_missing_or_old_library_names_the_cure(installed):
    installed()
    with pytest.raises(BackendUnavailable, match=r"pip install 'twinport\[tensorrt-rtx\]'"):
        open_library()
    with pytest.raises(BackendUnavailable, match=r"TensorRT is missing .*twinport\[tensorrt\]"):
        open_library("tensorrt")
    installed(tensorrt="10.16.0.1")
    with pytest.raises(BackendUnavailable, match=r"TensorRT 10\.16\.0\.1 is installed; wanted 11"):
        open_library("tensorrt")
    with pytest.raises(InvalidInput, match="use tensorrt or tensorrt_rtx"):
        open_library("trt")
