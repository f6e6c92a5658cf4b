"""Shapes of ``config.pbtxt`` that clients see in place of the artifact's."""

from __future__ import annotations

import numpy as np
import pytest

from protos import ModelConfig
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import RepositoryError, Status, TwinportError
from runtime.model_config import config_from_text, reshaped_dims, specs_from_config
from runtime.reshape import Reshape, check_reshape, reshapes_from_dims
from runtime.tensors import TensorSpec
from runtime.versions import State

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
CONFIG = """
max_batch_size: 8
input {{ name: "x" data_type: TYPE_FP32 {x} }}
output {{ name: "y" data_type: TYPE_FP32 {y} }}
output {{ name: "total" data_type: TYPE_FP32 {total} }}
"""
AS_IT_IS = {"x": "dims: [4]", "y": "dims: [3]", "total": "dims: [1] reshape {}"}


@pytest.fixture
def configured(write_toy, repository):
    """The linear model under another configuration."""

    def configured(more="", **tensors):
        write_toy("linear")
        text = CONFIG.format(**{**AS_IT_IS, **tensors}) + more
        (repository / "linear" / "config.pbtxt").write_text(text)

    return configured


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((1,), ()),
        ((4,), (2, 2)),
        ((1, 4, 1), (4,)),
        ((1,), (1, 1)),
        ((2, 4, -1, 6), (8, -1, 1, 6)),
        ((-1,), (-1, 1)),
        ((-1, -1), (-1, 1, -1)),
    ],
)
def test_two_shapes_of_as_many_elements_are_taken_both_ways(dims, shape):
    check_reshape(dims, shape, "input 'x'")
    check_reshape(shape, dims, "input 'x'")


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((2,), ()),
        ((4,), (2, 3)),
        ((-1,), (4,)),
        ((4,), (-1,)),
        ((-1, 2), (2, -1)),
        ((-1, -1), (-1,)),
        ((4,), (4, 0)),
        ((4,), (-2, -2)),
    ],
)
def test_shapes_that_differ_in_elements_are_refused_with_both(dims, shape):
    with pytest.raises(RepositoryError) as caught:
        check_reshape(dims, shape, "input 'x'")
    assert f"dims {list(dims)} and reshape {list(shape)}" in str(caught.value)


def test_free_axes_keep_name_and_size_on_both_sides():
    spec = TensorSpec("x", "float32", ("batch", 8, "width", 1, 6))
    reshape = reshapes_from_dims({"x": (2, 4, -1, 6)}, {"x": spec}, batched=True)["x"]
    assert reshape.wire.shape == ("batch", 2, 4, "width", 6)
    sent = np.arange(3 * 8 * 5 * 6).reshape(3, 2, 4, 5, 6)
    fed = reshape.to_model(sent)
    assert fed.shape == (3, 8, 5, 1, 6)
    np.testing.assert_array_equal(reshape.to_wire(fed), sent)


def test_an_artifact_that_gives_another_shape_than_it_says_is_a_defect():
    wire, model = (TensorSpec("y", "float32", shape) for shape in ((4,), (2, 2)))
    for shape in ((3, 3), (4,)):
        with pytest.raises(TwinportError, match="the artifact says it is") as caught:
            Reshape(wire, model).to_wire(np.zeros(shape))
        assert caught.value.status is Status.INTERNAL


def test_the_configuration_gives_both_shapes():
    config = config_from_text(CONFIG.format(**{**AS_IT_IS, "x": "dims: [2, 2] reshape {shape: 4}"}))
    assert reshaped_dims(config.SerializeToString()) == ({"x": (2, 2)}, {"total": (1,)})
    (x,), (_, total) = specs_from_config(config)
    assert (x.wire_shape, total.wire_shape) == ((-1, 4), (-1,))


async def test_clients_see_dims_and_the_artifact_its_own_shape(configured, open_service, ask, toys):
    configured(x="dims: [2, 1, 2] reshape { shape: [4] }", y="dims: [3, 1] reshape { shape: [3] }")
    servicer = await open_service()
    metadata = await ask(servicer, "ModelMetadata", name="linear")
    assert [list(each.shape) for each in metadata.inputs] == [[-1, 2, 1, 2]]
    assert [list(each.shape) for each in metadata.outputs] == [[-1, 3, 1], [-1, 1]]
    request = request_from_arrays(
        {"x": X.reshape(2, 2, 1, 2)}, model="linear", outputs=["y", "total"]
    )
    answers = arrays_from_response(await ask(servicer, "ModelInfer", request))
    right = toys["linear"].compute({"x": X})
    np.testing.assert_allclose(answers["y"], right["y"][:, :, np.newaxis], rtol=1e-5)
    np.testing.assert_allclose(answers["total"], right["total"][:, np.newaxis], rtol=1e-4)


async def test_the_artifacts_shape_is_refused_on_the_wire(configured, open_service, ask, status_of):
    configured(x="dims: [2, 2] reshape { shape: [4] }")
    servicer = await open_service()
    request = request_from_arrays({"x": X}, model="linear")
    status, text = await status_of(ask(servicer, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    assert text == "input 'x' has shape [2, 4]; the model wants float32 [batch, 2, 2]"


async def test_a_single_number_is_one_axis_of_1_without_any_configuration(
    write_toy, open_service, ask, repository
):
    write_toy("slow")
    (repository / "slow" / "config.pbtxt").unlink()
    servicer = await open_service()
    metadata = await ask(servicer, "ModelMetadata", name="slow")
    assert [list(each.shape) for each in metadata.inputs] == [[-1, 256], [1]]
    config = ModelConfig.FromString(servicer._repository.model("slow").record.config)
    assert (list(config.input[1].dims), list(config.input[1].reshape.shape)) == ([1], [])
    arrays = {"x": np.ones((3, 256), np.float32), "times": np.array([0])}
    answer = await ask(servicer, "ModelInfer", request_from_arrays(arrays, model="slow"))
    np.testing.assert_array_equal(arrays_from_response(answer)["y"], arrays["x"])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"x": "dims: [2, 3] reshape { shape: [4] }"}, "different numbers of elements"),
        ({"y": "dims: [3] reshape {}"}, "different numbers of elements"),
        # What is served must be what was proved.
        ({"x": "dims: [4] reshape { shape: [2, 2] }"}, "the artifact has float32 [batch, 4]"),
        ({"total": "dims: [1]"}, "the artifact has float32 [batch]"),
    ],
)
async def test_a_reshape_that_does_not_fit_keeps_the_model_from_service(
    tensors, text, configured, open_service
):
    configured(**tensors)
    version = (await open_service())._repository.entries["linear"].versions[1]
    assert version.state is State.UNAVAILABLE
    assert text in version.reason


async def test_warm_up_is_in_the_shape_of_clients(configured, open_service):
    warmup = (
        'model_warmup { name: "w" batch_size: 2 inputs { key: "x" value '
        "{ data_type: TYPE_FP32 dims: [2, 2] zero_data: true } } }"
    )
    configured(warmup, x="dims: [2, 2] reshape { shape: [4] }")
    assert (await open_service())._repository.is_ready("linear")
