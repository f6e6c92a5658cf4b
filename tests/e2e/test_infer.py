"""``twinport serve`` and ``twinport infer`` as the two processes that a user starts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.client import Client
from runtime.errors import InvalidInput, NotFound
from runtime.manifest import FILE_NAME, Preprocessing, manifest_to_text, read_manifest
from runtime.preprocess import array_from_image, read_image

TWINPORT = Path(sys.executable).with_name("twinport")
PREPARED = Preprocessing("x", "gray", 2, 2, (0.25,), (0.5,))


def twinport(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TWINPORT), *map(str, argv)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def url(write_toy, repository, tmp_path) -> Iterator[str]:
    """The address of a server of the repository, once all is loaded."""
    server = subprocess.Popen(
        [TWINPORT, "serve", repository, "--port", "0", "--state", tmp_path / "state"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[-1]
        with Client(address) as client:
            client.wait_ready(60)
        yield address
    finally:
        server.terminate()
        server.stdout.read()
        assert server.wait(timeout=60) == 0
        server.stdout.close()
