"""Plans of the stand-in: a header as a real one has it, a description, an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tensorrt.kinds import CUDA

MAGICS = (b"ftrt", b"vtrt")


def plan_bytes(
    model: bytes,
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]],
    *,
    magic: bytes = MAGICS[0],
    version: Sequence[int] = (11, 4, 0, 106),
    **more: Any,
) -> bytes:
    """A plan for the stand-in.

    Args:
        model: ONNX.
        profiles: By profile and input, smallest, optimal and largest shape.
        magic: First bytes of the file.
        version: Of the library that is said to have built it.
        more: ``values`` by shape tensor and profile, as ``profiles``; ``types``, ``layouts``
            to tell other than they are; ``host_code`` where the plan brings code.
    """
    described = json.dumps({"profiles": list(profiles), **more}).encode()
    body = len(described).to_bytes(8, "little") + described + model
    length = (28 + len(body)).to_bytes(8, "little")
    return magic + bytes(12) + length + bytes(version) + body


def refusal(plan: bytes, *, host_code: bool) -> str:
    if plan[:4] not in MAGICS or int.from_bytes(plan[16:24], "little") != len(plan):
        return "Serialization assertion failed"
    described, _ = parts(plan)
    if described.get("broken"):
        return "Magic tag does not match"
    if "unsized" in described and "init_libnvinfer_plugins" not in CUDA._state.names():
        return "the plugin of NonZero was not found"
    if described.get("host_code") and not host_code:
        return "the plan has host code, which is not allowed"
    return ""


def parts(plan: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(plan[28:36], "little")
    return json.loads(plan[36 : 36 + size]), plan[36 + size :]
