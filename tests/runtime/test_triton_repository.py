"""A repository that was made for Triton is served as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from runtime.errors import InvalidInput, Unavailable
from runtime.versions import entry_from_folder

DIMS = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
input { name: "w" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] EXTRA }
"""


@pytest.fixture
def load(open_models):
    """Load the test's repository; nothing in it is proved."""
    return partial(open_models, unproved=True)


@pytest.fixture
def write(repository):
    """Write one version of a model that adds ``x`` and ``w``, without a manifest."""

    def write(name="sum", *, axes=("n", "n", "n"), version=1, place="model.onnx", extra=""):
        def tensor(of, axis):
            return helper.make_tensor_value_info(of, TensorProto.FLOAT, [axis, 4])

        inputs = [tensor(of, axis) for of, axis in zip("xw", axes, strict=False)]
        node = helper.make_node("Add", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "sum", inputs, [tensor("y", axes[2])])
        path = repository / name / str(version) / place
        path.parent.mkdir(parents=True)
        opsets = [helper.make_opsetid("", 18)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        config = repository / name / "config.pbtxt"
        config.write_text(DIMS.replace("EXTRA", extra))
        return config

    return write


def rows(count):
    return {name: np.ones((count, 4), np.float32) for name in "xw"}


@pytest.mark.parametrize(
    "axes", [("unk__5", "unk__6", "unk__7"), (None, None, None), ("n", "m", "n")]
)
async def test_what_exporters_call_the_batch_does_not_matter(axes, write, load):
    write(axes=axes)
    model = (await load()).model("sum")
    assert (await model.infer(rows(3), ["y"]))["y"].tolist() == [[2.0] * 4] * 3
    assert {spec.shape for spec in model.record.inputs.values()} == {("batch", 4)}
    with pytest.raises(InvalidInput, match="batch of 9"):
        await model.infer(rows(9), ["y"])


async def test_an_axis_that_is_fixed_is_no_batch(write, load):
    write(axes=(2, 2, 2))
    with pytest.raises(Unavailable, match="the artifact has float32"):
        (await load()).model("sum")


async def test_a_model_may_be_a_folder(write, load):
    write(place="model.onnx/model.onnx")
    assert (await load()).is_ready("sum")


async def test_a_change_within_a_model_that_is_a_folder_is_seen(write, repository):
    write(place="model.onnx/model.onnx")
    before = entry_from_folder(repository / "sum").versions[1].stamp
    (repository / "sum" / "1" / "model.onnx" / "model.onnx").write_bytes(b"another")
    assert entry_from_folder(repository / "sum").versions[1].stamp != before


@pytest.mark.parametrize("name", ["with space", "modèle", "_under"])
async def test_a_model_may_have_any_name_that_a_client_can_send(name, write, load):
    write(name)
    assert (await load()).is_ready(name)


async def test_hidden_folders_are_no_models(write, load):
    write()
    write(".git")
    assert list((await load()).entries) == ["sum"]


async def test_the_highest_version_alone_is_served_where_nothing_is_said(write, load):
    for version in (1, 2, 10):
        config = write(version=version)
    loaded = await load()
    assert [item.number for item in loaded.entries["sum"].ready()] == [10]
    with pytest.raises(Unavailable, match="below without a manifest; a version_policy"):
        loaded.model("sum", "2")
    with config.open("a") as file:
        file.write("version_policy { all {} }")
    assert [item.number for item in (await load()).entries["sum"].ready()] == [1, 2, 10]


async def test_labels_may_lie_in_a_folder_of_the_model(write, load):
    config = write(extra='label_filename: "labels/y.txt"')
    (config.parent / "labels").mkdir()
    (config.parent / "labels" / "y.txt").write_text("a\nb\nc\nd\n")
    assert (await load()).model("sum").record.labels == {"y": ("a", "b", "c", "d")}


@pytest.mark.parametrize("file", ["../y.txt", "/etc/hostname"])
async def test_labels_may_not_lie_outside(file, write, load):
    write(extra=f'label_filename: "{file}"')
    with pytest.raises(Unavailable, match="wanted a file beside it"):
        (await load()).model("sum")
