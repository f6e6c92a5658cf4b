"""Progress and Ctrl-C, with the real builder."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest

from exporter.engine.build import engine_from_onnx
from exporter.engine.listen import Unwatched, interruptible
from exporter.engine.options import EngineOptions
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.progress import BuildView
from runtime.manifest import ProfileShape

SHAPES = ((ProfileShape("image", (1, 1, 32, 32), (8, 1, 32, 32), (64, 1, 32, 32)),),)


class Steps(Unwatched):
    def __init__(self):
        self.phases = []
        self.open = []
        self.steps = 0
        self.threads = set()

    def started(self, phase, parent, steps):
        assert steps > 0
        assert parent is None or parent in self.open
        self.phases.append(phase)
        self.open.append(phase)
        self.threads.add(threading.current_thread())

    def stepped(self, phase, step):
        assert phase in self.open
        self.steps += 1

    def finished(self, phase):
        self.open.remove(phase)


class Interrupting(BuildView):
    """Presses Ctrl-C in the middle of the build, as the terminal would."""

    def __init__(self):
        super().__init__(io.StringIO())
        self.after = []

    def stepped(self, phase, step):
        self.after.append(phase)
        if len(self.after) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            # The builder is held here until the main thread has seen the signal.
            assert self.seen.wait(60)


def test_the_builders_phases_are_told_from_its_own_thread(rtx, lenet):
    watch = Steps()
    engine_from_onnx(
        rtx, lenet.folder / "model.onnx", lenet.manifest, SHAPES, EngineOptions(), watch
    )
    assert watch.steps > 20
    assert len(watch.phases) > 3
    assert not watch.open
    assert threading.main_thread() not in watch.threads


def test_ctrl_c_stops_the_builder_and_leaves_nothing(repository, monkeypatch):
    import exporter.engine.build as build

    view = Interrupting()

    def with_event(work):
        def watched(cancel):
            view.seen = cancel
            return work(cancel)

        return interruptible(watched)

    monkeypatch.setattr(build, "interruptible", with_event)
    before = sorted(path for path in repository.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        build_engine(EngineRequest(repository / "lenet5", flavour="tensorrt_rtx"), view)
    assert 5 <= len(view.after) < 20, "the builder went on"
    assert sorted(path for path in repository.rglob("*")) == before


def test_plain_lines_are_the_outer_phases():
    stream = io.StringIO()
    with BuildView(stream) as view:
        view.note("building it")
        view.started("outer", None, 3)
        view.started("inner", "outer", 2)
        view.started("innermost", "inner", 2)
        view.stepped("innermost", 0)
        for phase in ("innermost", "inner", "outer"):
            view.finished(phase)
    assert stream.getvalue().splitlines() == ["building it", "outer", "  inner"]


def test_a_terminal_gets_nested_bars():
    stream = io.StringIO()
    with BuildView(stream, terminal=True) as view:
        assert view.bars is not None
        view.started("outer", None, 3)
        view.started("inner", "outer", 2)
        view.stepped("inner", 1)
        outer, inner = view.bars.tasks
        assert (outer.description, inner.description) == ("outer", "  inner")
        assert (inner.completed, inner.total) == (2, 2)
        view.note("a line")
        view.finished("inner")
        assert [task.description for task in view.bars.tasks] == ["outer"]
    assert "a line" in stream.getvalue()
