"""``twinport export --engine``: the engine that is built once a version is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from exporter.engine.library import check_machine, open_library
from exporter.engine.options import EngineOptions, check_options
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.profiles import checked_profiles
from exporter.engine.progress import BuildView
from exporter.ranges import Range
from exporter.write import Written
from runtime.tensors import TensorSpec


@dataclass(frozen=True)
class EngineWish:
    """The engine that an export is to end with.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt_rtx``; the one that is installed, the full one first.
        options: How it is built.
    """

    flavour: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)

    def check(self, inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]) -> None:
        """Refuse what can be refused before anything is exported.

        Args:
            inputs: Of the module.
            ranges: Sizes of its free axes.

        Raises:
            BackendUnavailable: The library is missing, or the GPU that its builder needs.
            InvalidInput: The profiles or the options do not fit the module or the library.
        """
        library = open_library(self.flavour)
        check_options(self.options, library)
        check_machine(library)
        checked_profiles(self.options.profiles, inputs, ranges)


def with_engine(written: Written, wish: EngineWish) -> Written:
    """Build the engine of a version that was just written; none where its proof failed.

    Raises:
        TwinportError: The version stays, and there is no engine; the text says why.
    """
    proof = written.manifest.proof
    if proof is None or proof.verdict == "failed":
        return written
    request = EngineRequest(written.folder, flavour=wish.flavour, options=wish.options)
    with BuildView() as view:
        view.note(f"{proof.verdict}: {written.folder}")
        return replace(written, engine=build_engine(request, view))
