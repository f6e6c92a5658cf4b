"""``instance_group`` of ``config.pbtxt``: how often a version is opened, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from protos import ModelConfig, ModelInstanceGroup
from runtime.errors import RepositoryError
from runtime.layout import CONFIG_FILE

MOST = 256
"""Each has a thread and a copy of the model."""
_DEVICES = {ModelInstanceGroup.KIND_CPU: "cpu", ModelInstanceGroup.KIND_GPU: "cuda"}
"""The other kinds leave it to the server."""


@dataclass(frozen=True)
class InstanceGroup:
    """So many copies on one kind of device.

    Attributes:
        count: At least 1.
        device: ``cpu`` or ``cuda``; empty for the one that the server was started with.
    """

    count: int = 1
    device: str = ""


def instances_from_config(
    config: ModelConfig, where: str = CONFIG_FILE
) -> tuple[InstanceGroup, ...]:
    """The groups that take requests; none where the file says nothing of it.

    Raises:
        RepositoryError: A number of instances that cannot be.
    """
    groups = tuple(
        InstanceGroup(group.count or 1, _DEVICES.get(group.kind, ""))
        for group in config.instance_group
        if not group.passive
    )
    for group in groups:
        if not 1 <= group.count <= MOST:
            raise RepositoryError(
                f"{where} has an instance_group of {group.count}; wanted a count of 1 to {MOST}"
            )
    return groups


def devices_of(groups: tuple[InstanceGroup, ...], server: str) -> list[str]:
    """The device of each instance; one on the server's where there are no groups.

    Raises:
        RepositoryError: A group wants a GPU and the server runs on the CPU.
    """
    for group in groups:
        if group.device == "cuda" and server != "cuda":
            raise RepositoryError(
                f"{CONFIG_FILE} has an instance_group of KIND_GPU and the server runs on the "
                f"{server}; start it with --device cuda, or use KIND_CPU or KIND_AUTO"
            )
    return [
        group.device or server for group in groups or (InstanceGroup(),) for _ in range(group.count)
    ]
