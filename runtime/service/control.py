"""Triton's calls about the repository: what is in it, load, unload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protos import (
    ModelRepositoryParameter,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from runtime.errors import InvalidInput, Unavailable, Unimplemented
from runtime.repository import EXPLICIT, Repository
from runtime.service.call import Call, Unary, in_time, parsed
from runtime.versions import State

_ModelIndex = RepositoryIndexResponse.ModelIndex


class Control:
    """The calls that look at the repository and change what is loaded."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def handlers(self) -> dict[str, Unary]:
        """The calls of the protocol by name."""
        return {
            "RepositoryIndex": self._on_index,
            "RepositoryModelLoad": self._on_load,
            "RepositoryModelUnload": self._on_unload,
        }

    async def _on_index(self, payload: bytes, call: Call) -> bytes:
        request = parsed(RepositoryIndexRequest, payload)
        _check_repository(request.repository_name)
        if self._repository.control == EXPLICIT:
            # What came into the folder since can be loaded, so it is listed.
            await in_time(self._repository.look_for_models(), call)
        items = [item for item in self._items() if not request.ready or item.state == State.READY]
        return RepositoryIndexResponse(models=items).SerializeToString()

    async def _on_load(self, payload: bytes, call: Call) -> bytes:
        request = parsed(RepositoryModelLoadRequest, payload)
        self._check_allowed(request.repository_name)
        _check_load(request.parameters)
        await in_time(self._repository.load_model(request.model_name), call)
        return RepositoryModelLoadResponse().SerializeToString()

    async def _on_unload(self, payload: bytes, call: Call) -> bytes:
        request = parsed(RepositoryModelUnloadRequest, payload)
        self._check_allowed(request.repository_name)
        for name, value in request.parameters.items():
            # There are no ensembles here, so no model depends on another.
            if name != "unload_dependents" or value.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInput(
                    f"parameter '{name[:80]}' of unloading is not known; "
                    "wanted unload_dependents, which is true or false"
                )
        await in_time(self._repository.unload_model(request.model_name), call)
        return RepositoryModelUnloadResponse().SerializeToString()

    def _items(self) -> Iterator[_ModelIndex]:
        for entry in self._repository.entries.values():
            if not entry.versions:
                yield _ModelIndex(name=entry.name, state=State.UNAVAILABLE, reason=entry.reason)
            for item in entry.versions.values():
                yield _ModelIndex(
                    name=item.name, version=str(item.number), state=item.state, reason=item.reason
                )

    def _check_allowed(self, repository: str) -> None:
        if self._repository.control != EXPLICIT:
            raise Unavailable(
                "explicit model load / unload is not allowed with --model-control "
                f"{self._repository.control}; start the server with --model-control explicit"
            )
        _check_repository(repository)


def _check_repository(name: str) -> None:
    if name:
        raise Unimplemented(
            f"repository_name '{name[:80]}' cannot be chosen; this server has one repository, "
            "so leave it empty"
        )


def _check_load(parameters: Mapping[str, ModelRepositoryParameter]) -> None:
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise Unimplemented(
                f"parameter '{name[:80]}' of loading is not served: a version is loaded as it was "
                "proved; change the files in the repository instead"
            )
        raise InvalidInput(f"parameter '{name[:80]}' of loading is not known; give none")
