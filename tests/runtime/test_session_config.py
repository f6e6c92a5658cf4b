"""Threads that a model asks for in ``config.pbtxt``."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.errors import RepositoryError
from runtime.model_config import config_from_text
from runtime.session_config import SessionConfig, session_from_config


def parameter(name, value):
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'


def test_what_the_file_does_not_say_is_the_servers():
    assert session_from_config(config_from_text(parameter("other", "x"))) == SessionConfig()
    options = BackendOptions("cuda", 3, spinning=True)
    assert SessionConfig().applied(options) == options


def test_the_file_counts_more_than_the_server():
    text = "".join(
        [
            parameter("intra_op_thread_count", 0),
            parameter("inter_op_thread_count", 4),
            parameter("execution_mode", 1),
            parameter("session.intra_op.allow_spinning", 1),
        ]
    )
    options = session_from_config(config_from_text(text)).applied(BackendOptions(threads=3))
    assert options == BackendOptions("cpu", 0, 4, parallel=True, spinning=True)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("intra_op_thread_count", "-1", "0 to 1024"),
        ("intra_op_thread_count", "two", "0 to 1024"),
        ("inter_op_thread_count", "1025", "0 to 1024"),
        ("inter_op_thread_count", "9" * 5000, "0 to 1024"),
        ("execution_mode", "2", "0 to 1"),
        ("session.intra_op.allow_spinning", "", "0 to 1"),
    ],
)
def test_what_is_no_such_number_is_refused(name, value, wanted):
    with pytest.raises(RepositoryError, match=wanted) as caught:
        session_from_config(config_from_text(parameter(name, value)))
    assert len(str(caught.value)) < 300


async def test_each_instance_is_opened_with_what_its_model_asks_for(
    write_toy, open_service, repository, monkeypatch
):
    opened, init = [], OrtBackend.__init__

    def noted(self, model, options):
        opened.append((options.threads, options.spinning))
        init(self, model, options)

    monkeypatch.setattr(OrtBackend, "__init__", noted)
    write_toy("linear")
    with (repository / "linear" / "config.pbtxt").open("a") as config:
        config.write("instance_group { count: 2 }" + parameter("intra_op_thread_count", 2))
    assert (await open_service())._repository.is_ready("linear")
    assert opened == [(2, False)] * 2


async def test_a_number_of_threads_that_cannot_be_keeps_the_model_from_service(
    write_toy, open_service, repository
):
    write_toy("linear")
    with (repository / "linear" / "config.pbtxt").open("a") as config:
        config.write(parameter("intra_op_thread_count", "many"))
    (version,) = (await open_service())._repository.versions()
    assert "intra_op_thread_count 'many'" in version.reason


def test_a_session_takes_every_setting(write_toy):
    folder = write_toy("linear")
    options = BackendOptions(threads=2, node_threads=2, parallel=True, spinning=True)
    backend = OrtBackend(folder / "model.onnx", options)
    x = np.ones((1, 4), np.float32)
    assert backend.infer({"x": x})["y"].shape == (1, 3)
    backend.close()
