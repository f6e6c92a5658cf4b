"""Weights beside the graph: exported, served and asked by the processes that a user starts."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from runtime.client import Client
from runtime.errors import Unavailable


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    from exporter.commands.export import export

    folder = tmp_path_factory.mktemp("apart") / "repository"
    words = ["lenet5", "-o", str(folder), "--external-data", "64KB"]
    export.main(words, standalone_mode=False)
    return folder


def test_a_server_answers_with_the_weights_that_lie_beside(repository, start_server,
                                                           lenet5_repository):  # fmt: skip
    image = np.random.RandomState(0).standard_normal((3, 1, 32, 32)).astype(np.float32)
    answers = []
    for folder in (repository, lenet5_repository):
        with Client(start_server(folder).address) as client:
            answers.append(client.infer("lenet5", {"image": image})["logits"])
    np.testing.assert_array_equal(*answers)


def test_a_server_does_not_open_weights_that_were_changed(repository, start_server, tmp_path):
    shutil.copytree(repository, tmp_path / "spoiled")
    path = tmp_path / "spoiled" / "lenet5" / "1" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    server = start_server(tmp_path / "spoiled", "--unproved", "allow", until="listening on")
    with Client(server.address) as client, pytest.raises(Unavailable, match=r"data has sha256"):
        client.infer("lenet5", {"image": np.zeros((1, 1, 32, 32), np.float32)})
