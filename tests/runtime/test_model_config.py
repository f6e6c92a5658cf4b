from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import DataType
from runtime.errors import InvalidInput, RepositoryError
from runtime.model_config import (
    ModelFacts,
    check_same_interface,
    config_from_facts,
    config_from_text,
    config_to_text,
    config_to_write,
    read_config,
    specs_from_config,
)
from runtime.tensors import BY_CONFIG, BY_NAME, TensorSpec, spec_from_text

LENET5 = ModelFacts(
    name="lenet5",
    backend="onnxruntime",
    filename="model.onnx",
    max_batch_size=64,
    inputs=(spec_from_text("image:float32[batch,1,32,32]"),),
    outputs=(spec_from_text("logits:float32[batch,10]"),),
    label_files={"logits": "labels.txt"},
)
LENET5_TEXT = """\
name: "lenet5"
max_batch_size: 64
input {
  name: "image"
  data_type: TYPE_FP32
  dims: [1, 32, 32]
}
output {
  name: "logits"
  data_type: TYPE_FP32
  dims: [10]
  label_filename: "labels.txt"
}
default_model_filename: "model.onnx"
dynamic_batching {
}
backend: "onnxruntime"
"""


def facts(*, max_batch_size: int, inputs: list[str], outputs: list[str]) -> ModelFacts:
    return ModelFacts(
        name="net",
        backend="onnxruntime",
        filename="model.onnx",
        max_batch_size=max_batch_size,
        inputs=tuple(spec_from_text(text) for text in inputs),
        outputs=tuple(spec_from_text(text) for text in outputs),
    )


def test_the_text_is_what_triton_reads() -> None:
    assert config_to_text(config_from_facts(LENET5)) == LENET5_TEXT


def test_the_data_types_are_those_of_the_message_but_for_bfloat16() -> None:
    assert set(DataType.keys()) - set(BY_CONFIG) == {"TYPE_INVALID", "TYPE_BF16"}
    assert set(BY_CONFIG) <= set(DataType.keys())


@pytest.mark.parametrize(("max_batch_size", "joins"), [(0, False), (1, False), (2, True)])
def test_triton_is_told_to_join_requests_where_two_fit(max_batch_size: int, joins: bool) -> None:
    config = config_from_facts(dataclasses.replace(LENET5, max_batch_size=max_batch_size))
    assert config.HasField("dynamic_batching") is joins


def test_a_free_axis_is_minus_one() -> None:
    config = config_from_facts(
        facts(max_batch_size=8, inputs=["x:int64[batch,time,4]"], outputs=["y:bool[batch,time]"])
    )
    assert list(config.input[0].dims) == [-1, 4]
    assert list(config.output[0].dims) == [-1]


def test_without_joining_the_batch_axis_is_in_the_dims() -> None:
    config = config_from_facts(
        facts(max_batch_size=0, inputs=["x:float16[batch,4]"], outputs=["y:float16[4]"])
    )
    assert list(config.input[0].dims) == [-1, 4]
    assert list(config.output[0].dims) == [4]


@pytest.mark.parametrize(("max_batch_size", "shape"), [(0, ""), (4, "batch")])
def test_a_tensor_without_axes_is_reshaped_from_one_element(
    max_batch_size: int, shape: str
) -> None:
    config = config_from_facts(
        facts(max_batch_size=max_batch_size, inputs=[f"x:int32[{shape}]"], outputs=[])
    )
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    (spec,), _ = specs_from_config(config)
    assert spec == spec_from_text(f"x:int32[{shape}]")


def test_specifications_get_a_name_for_every_free_axis() -> None:
    config = config_from_text(
        'max_batch_size: 2 input { name: "x" data_type: TYPE_STRING dims: [3, -1] }'
        ' output { name: "y" data_type: TYPE_UINT8 dims: -1 }'
    )
    assert specs_from_config(config) == (
        (TensorSpec("x", "string", ("batch", 3, "x_2")),),
        (TensorSpec("y", "uint8", ("batch", "y_1")),),
    )


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ('name: "x" data_type: TYPE_BF16 dims: 1', r"input 'x' has data type TYPE_BF16; use one"),
        ('name: "x" data_type: 99 dims: 1', r"input 'x' has data type 99; use one"),
        ('name: "x" data_type: TYPE_FP32 dims: -2', r"input: 'x' has the axis -2"),
        ("data_type: TYPE_FP32 dims: 1", r"input: a tensor needs a name"),
    ],
)
def test_a_tensor_that_cannot_be_served_is_refused(tensor: str, message: str) -> None:
    config = config_from_text(f"input {{ {tensor} }}")
    with pytest.raises(RepositoryError, match=f"here: {message}"):
        specs_from_config(config, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nfoo: 1\n', r'line 2, column 1: .*no field named "foo"'),
        ('name: "a"\n\nmax_batch_size: 1e99\n', r"line 3, column 17: "),
        ("input {\n  dims: [1\n", r"line 3, column \d+: "),
        ('name: "\\xff"', r"line 1, column \d+: "),
        ('input { data_type: TYPE_FP31 dims: 1 name: "x" }', r"TYPE_FP31"),
    ],
)
def test_text_that_is_no_configuration_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message) as raised:
        config_from_text(text, "here")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("here, line ")


def test_reading_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    with pytest.raises(RepositoryError, match=r"config\.pbtxt cannot be read: No such file"):
        read_config(path)
    path.write_bytes(b"name: '\xff'")
    with pytest.raises(RepositoryError, match=r"config\.pbtxt is not UTF-8 text"):
        read_config(path)
    path.write_text("nam: 'a'")
    with pytest.raises(RepositoryError, match=r"config\.pbtxt, line 1, column 1"):
        read_config(path)
    path.write_text(LENET5_TEXT)
    assert read_config(path) == config_from_facts(LENET5)


def test_fields_of_the_user_survive_reading_and_writing() -> None:
    text = """\
name: "net"
max_batch_size: 8
instance_group {
  count: 2
  gpus: [0, 1]
  kind: KIND_GPU
}
dynamic_batching {
  preferred_batch_size: [4, 8]
  max_queue_delay_microseconds: 100
}
parameters {
  key: "a"
  value {
    string_value: "Größe"
  }
}
parameters {
  key: "b"
  value {
    string_value: "2"
  }
}
model_metrics {
  metric_control {
    histogram_options {
      buckets: [0.1, 2.5]
    }
  }
}
"""
    assert config_to_text(config_from_text(text)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "has name 'lenet5', this export has 'other'"),
        ({"backend": "tensorrt"}, "has backend 'onnxruntime', this export has 'tensorrt'"),
        (
            {"filename": "model.engine"},
            "has default_model_filename 'model.onnx', this export has 'model.engine'",
        ),
        ({"max_batch_size": 8}, "has max_batch_size 64, this export has 8"),
        (
            {"inputs": (spec_from_text("image:float32[batch,3,32,32]"),)},
            "has input 'image' float32 [-1, 1, 32, 32], this export has float32 [-1, 3, 32, 32]",
        ),
        (
            {"outputs": (spec_from_text("logits:float16[batch,10]"),)},
            "has output 'logits' float32 [-1, 10], this export has float16 [-1, 10]",
        ),
        (
            {"inputs": (*LENET5.inputs, spec_from_text("mask:bool[batch]"))},
            "has no input 'mask', this export has bool [-1]",
        ),
        (
            {"outputs": (), "label_files": {}},
            "has output 'logits' float32 [-1, 10], this export has none",
        ),
    ],
)
def test_an_export_that_differs_is_refused_with_both_sides(
    change: dict[str, object], message: str
) -> None:
    other = dataclasses.replace(LENET5, **change)  # type: ignore[arg-type]
    with pytest.raises(RepositoryError) as raised:
        check_same_interface(LENET5_TEXT, other)
    assert str(raised.value).startswith(f"config.pbtxt {message}; ")
    assert "--name" in str(raised.value)


def test_names_of_free_axes_and_the_order_of_tensors_do_not_matter() -> None:
    one = facts(max_batch_size=4, inputs=["a:int8[n,t]", "b:int8[n]"], outputs=["y:int8[n]"])
    other = facts(max_batch_size=4, inputs=["b:int8[m]", "a:int8[m,u]"], outputs=["y:int8[m]"])
    check_same_interface(config_to_text(config_from_facts(one)), other)


def test_a_configuration_without_tensors_leaves_them_to_the_model() -> None:
    check_same_interface("max_batch_size: 64", LENET5)
    with pytest.raises(RepositoryError, match="has max_batch_size 0, this export has 64"):
        check_same_interface("", LENET5)


def test_an_export_leaves_a_configuration_that_fits_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    assert config_to_write(path, LENET5) == LENET5_TEXT
    path.write_text("# tuned by hand\n" + LENET5_TEXT + "instance_group { count: 2 }\n")
    assert config_to_write(path, LENET5) is None
    with pytest.raises(RepositoryError, match=r"config\.pbtxt has max_batch_size 64"):
        config_to_write(path, dataclasses.replace(LENET5, max_batch_size=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batch_size": -1}, "max_batch_size is -1; wanted 0 to 2147483647"),
        ({"max_batch_size": 2**31}, "max_batch_size is 2147483648"),
        (
            {"inputs": (spec_from_text("image:float32[1,1,32,32]"),)},
            r"'image' has shape \[1, 1, 32, 32\]; max_batch_size 64 wants one free axis 0",
        ),
        ({"outputs": (spec_from_text("loss:float32[]"),), "label_files": {}}, "'loss' has shape"),
        (
            {"outputs": (spec_from_text("logits:float32[tokens,10]"),)},
            r"'logits' has shape \[tokens, 10\]",
        ),
        ({"label_files": {"probabilities": "l.txt"}}, "output 'probabilities'; .* has logits"),
    ],
)
def test_facts_that_no_configuration_can_say_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        dataclasses.replace(LENET5, **change)  # type: ignore[arg-type]


NAMES = st.text(min_size=1, max_size=8)
AXES = st.lists(st.integers(1, 2**62) | st.sampled_from(["time", "width"]), max_size=4)


@st.composite
def any_facts(draw: st.DrawFn) -> ModelFacts:
    max_batch_size = draw(st.sampled_from([0, 1, 64, 2**31 - 1]))
    batch = ("batch",) if max_batch_size else ()
    tensors = st.builds(
        lambda name, dtype, axes: TensorSpec(name, dtype, (*batch, *axes)),
        NAMES,
        st.sampled_from(sorted(BY_NAME)),
        AXES,
    )
    several = st.lists(tensors, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
    inputs, outputs = draw(several), draw(several)
    labelled = draw(st.sets(st.sampled_from(outputs))) if outputs else set()
    return ModelFacts(
        name=draw(NAMES),
        backend=draw(NAMES),
        filename=draw(NAMES),
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        label_files={spec.name: draw(NAMES) for spec in labelled},
    )


@given(any_facts())
def test_every_configuration_comes_back_from_its_text(some: ModelFacts) -> None:
    config = config_from_facts(some)
    text = config_to_text(config)
    assert config_from_text(text) == config
    assert config_to_text(config_from_text(text)) == text
    check_same_interface(text, some)
    inputs, outputs = specs_from_config(config)
    for read, given_specs in ((inputs, some.inputs), (outputs, some.outputs)):
        assert [(spec.name, spec.dtype, spec.wire_shape) for spec in read] == [
            (spec.name, spec.dtype, spec.wire_shape) for spec in given_specs
        ]


WORDS = st.sampled_from(
    ["name", "input", "{", "}", ":", "[", "]", ",", "dims", "1", "-1", '"x"', "\n", "1e400", "#"]
)


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=20))
def test_no_text_raises_anything_but_a_repository_error_of_one_line(text: str) -> None:
    refusal = ""
    try:
        config_from_text(text)
    except RepositoryError as error:
        refusal = str(error)
    assert "\n" not in refusal
