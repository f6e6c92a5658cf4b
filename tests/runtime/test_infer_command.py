from __future__ import annotations

import dataclasses
import json

import grpc
import numpy as np
import pytest
from PIL import Image

import protos
from runtime.codec import arrays_from_request, response_from_arrays
from runtime.errors import InvalidInput
from runtime.input_files import Prepared, joined
from runtime.manifest import Preprocessing
from runtime.preprocess import array_from_image
from runtime.properties import LABELS, PREPROCESSING
from runtime.tensors import TensorSpec

PREPROCESSING_OF_SHADE = Preprocessing("image", "gray", 2, 2, (0.0,), (1.0,))
LABELS_OF_SHADE = ("dark", "light")


class Shade:
    """A model of pictures whose logits are the mean darkness and the mean lightness."""

    def __init__(self, *, max_batch_size=4, pictures=True, labels=True):
        self.max_batch_size = max_batch_size
        self.properties = {}
        if pictures:
            fields = dataclasses.asdict(PREPROCESSING_OF_SHADE)
            self.properties[PREPROCESSING] = json.dumps(fields)
        if labels:
            self.properties[LABELS] = json.dumps(LABELS_OF_SHADE)
        self.requests = []
        self.versions = []

    def metadata(self, request, context):
        if request.name != "shade":
            context.abort(grpc.StatusCode.NOT_FOUND, f"model '{request.name}' is not known")
        tensor = protos.ModelMetadataResponse.TensorMetadata
        return protos.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name="image", datatype="FP32", shape=[-1, 1, 2, 2])],
            outputs=[tensor(name="logits", datatype="FP32", shape=[-1, 2])],
            properties=self.properties,
        )

    def config(self, request, context):
        config = protos.ModelConfig(max_batch_size=self.max_batch_size)
        return protos.ModelConfigResponse(config=config)

    def infer(self, request, context):
        spec = TensorSpec("image", "float32", ("batch", 1, 2, 2))
        try:
            image = arrays_from_request(request, {"image": spec})["image"]
        except InvalidInput as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self.requests.append(image)
        self.versions.append(request.model_version)
        light = image.mean(axis=(1, 2, 3))
        outputs = {"logits": 10 * np.stack([1 - light, light], 1), "light": light}
        wanted = [output.name for output in request.outputs] or list(outputs)
        return response_from_arrays(
            {name: outputs[name] for name in wanted}, model="shade", version="1"
        )

    def handlers(self):
        return {
            "ModelMetadata": self.metadata,
            "ModelConfig": self.config,
            "ModelInfer": self.infer,
        }


@pytest.fixture
def shade(serve_with):
    model = Shade()
    model.url = serve_with(**model.handlers())
    return model


def picture(folder, name, gray):
    path = folder / name
    Image.new("L", (5, 5), gray).save(path)
    return path


def test_a_picture_is_prepared_as_the_server_says_and_its_label_printed(
    shade, twinport, tmp_path, monkeypatch
):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    Image.new("L", (3, 3), 255).save(tmp_path / "white.png")
    monkeypatch.chdir(tmp_path)
    ran = twinport("infer", "shade", "white.png", "--url", shade.url)
    assert ran == (0, "white.png  light  (1.000)\n", "")
    twinport("infer", "shade", "noise.png", "--url", shade.url)
    expected = array_from_image(Image.fromarray(pixels), PREPROCESSING_OF_SHADE)
    np.testing.assert_array_equal(shade.requests[-1], expected[np.newaxis])


def test_pictures_go_as_batches_of_at_most_what_the_model_takes(shade, twinport, tmp_path):
    grays = [0, 255, 255, 0, 255, 0]
    files = [picture(tmp_path, f"{i}.png", gray) for i, gray in enumerate(grays)]
    ran = twinport("infer", "shade", *files, "--url", shade.url)
    assert [len(request) for request in shade.requests] == [4, 2]
    names = {0: "dark", 255: "light"}
    lines = [f"{path}  {names[gray]}  (1.000)" for path, gray in zip(files, grays, strict=True)]
    assert ran.out.splitlines() == lines


def test_pixels_of_one_size_go_together_and_others_by_themselves():
    sizes = [(4, 4), (4, 4), (9, 4), (4, 4)]
    prepared = [
        Prepared(str(i), {"image": np.zeros((1, *size, 1), np.uint8)}, picture=True)
        for i, size in enumerate(sizes)
    ]
    assert [len(group) for group in joined(prepared, 8)] == [2, 1, 1]


def test_pictures_go_one_by_one_where_requests_cannot_be_joined(serve_with, twinport, tmp_path):
    model = Shade(max_batch_size=0)
    files = [picture(tmp_path, f"{i}.png", 9) for i in range(3)]
    ran = twinport("infer", "shade", *files, "--url", serve_with(**model.handlers()))
    assert ran.code == 0
    assert [len(request) for request in model.requests] == [1, 1, 1]


def test_a_server_without_the_configuration_call_gets_pictures_one_by_one(
    serve_with, twinport, tmp_path
):
    model = Shade()
    handlers = model.handlers()
    del handlers["ModelConfig"]
    files = [picture(tmp_path, f"{i}.png", 9) for i in range(2)]
    assert twinport("infer", "shade", *files, "--url", serve_with(**handlers)).code == 0
    assert [len(request) for request in model.requests] == [1, 1]


def test_invert_swaps_light_and_dark(shade, twinport, tmp_path):
    path = picture(tmp_path, "white.png", 255)
    ran = twinport("infer", "shade", path, "--url", shade.url, "--invert")
    assert ran.out == f"{path}  dark  (1.000)\n"


def test_top_prints_as_many_labels_best_first(shade, twinport, tmp_path):
    np.save(tmp_path / "x.npy", np.full((1, 1, 2, 2), 0.55, dtype=np.float32))
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", shade.url, "--top", 2)
    assert ran.out == f"{tmp_path}/x.npy  light  (0.731)  dark  (0.269)\n"


def test_an_answer_that_is_no_number_gets_no_label(shade, twinport, tmp_path):
    np.save(tmp_path / "x.npy", np.full((1, 1, 2, 2), np.nan, dtype=np.float32))
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", shade.url)
    assert ran.out == f"{tmp_path}/x.npy  no label  (the answer is not a number)\n"


def test_every_row_of_an_array_has_its_line(shade, twinport, tmp_path):
    array = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))]).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", shade.url)
    path = tmp_path / "x.npy"
    assert ran.out == f"{path}[0]  dark  (1.000)\n{path}[1]  light  (1.000)\n"


def test_a_model_without_labels_has_its_arrays_printed(serve_with, twinport, tmp_path):
    url = serve_with(**Shade(labels=False).handlers())
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 1, 2, 2), dtype=np.float32))
    ran = twinport("infer", "shade", tmp_path / "x.npz", "--url", url, "--output", "logits")
    assert ran.out == f"{tmp_path}/x.npz  logits: float32 [1, 2]\n[[10.,  0.]]\n"


def test_json_holds_arrays_and_labels_of_every_file(shade, twinport, tmp_path):
    path = picture(tmp_path, "white.png", 255)
    ran = twinport("infer", "shade", path, "--url", shade.url, "--json", "--version", 7)
    record = json.loads(ran.out)
    (answer,) = record["answers"]
    assert record["model"] == "shade"
    assert answer["file"] == str(path)
    assert answer["outputs"]["logits"] == {
        "dtype": "float32",
        "shape": [1, 2],
        "data": [[0.0, 10.0]],
    }
    (label,) = answer["labels"][0]
    assert (label["index"], label["name"]) == (1, "light")
    assert label["probability"] == pytest.approx(1, abs=1e-4)
    assert shade.versions == ["7"]


def test_numbers_that_json_lacks_become_words(serve_with, twinport, tmp_path):
    def odd(request, context):
        outputs = {
            "numbers": np.array([np.nan, np.inf, -np.inf, 1]),
            "text": np.array([b"a\xff"], dtype=object),
        }
        return response_from_arrays(outputs, model="shade", version="1")

    url = serve_with(**Shade().handlers() | {"ModelInfer": odd})
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 2, 2), dtype=np.float32))
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", url, "--json")
    outputs = json.loads(ran.out)["answers"][0]["outputs"]
    assert outputs["numbers"]["data"] == ["NaN", "Infinity", "-Infinity", 1.0]
    assert outputs["text"] == {"dtype": "string", "shape": [1], "data": ["a\ufffd"]}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("[[[[1, 1], [1, 1]]]]", [1]),
        ('{"image": [[[[0.5, 1], [0, 1]]], [[[0, 0], [0, 0]]]]}', [2]),
        ('[{"image": [[[[0, 0], [0, 0]]]]}, {"image": [[[[1, 1], [1, 1]]]]}]', [1, 1]),
    ],
)
def test_json_files_hold_one_request_or_several(text, rows, shade, twinport, tmp_path):
    (tmp_path / "x.json").write_text(text)
    ran = twinport("infer", "shade", tmp_path / "x.json", "--url", shade.url)
    assert ran.code == 0, ran.err
    assert [len(request) for request in shade.requests] == rows
    assert len(ran.out.splitlines()) == sum(rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.png", None, "there is no file none.png"),
        ("none.npy", None, "there is no file none.npy"),
        ("bad.png", b"no", "bad.png is not a picture; wanted PNG or JPEG"),
        ("bad.npy", b"no", "bad.npy cannot be read as NumPy's .npy: "),
        ("bad.npz", b"PK\x03\x04", "bad.npz cannot be read as NumPy's .npz: "),
        ("bad.npz", b"", "bad.npz cannot be read as NumPy's .npz: "),
        ("bad.json", b"{", "bad.json is not JSON: "),
        ("bad.json", b"\xff", "bad.json is not JSON: "),
        ("deep.json", b"[" * 100_000, "deep.json is not JSON: "),
        ("bad.json", b"3", "bad.json holds an int; wanted a list or an object"),
        ("bad.json", b'{"picture": [1]}', "bad.json: input 'picture' is not known; the model has"),
        ("bad.json", b"[[1], [1, 2]]", "bad.json: input 'image' wants float32 [batch, 1, 2, 2]: "),
        ("bad.json", b'["a"]', "bad.json: input 'image' wants float32 [batch, 1, 2, 2]: "),
        ("bad.json", b"[null]", "bad.json: input 'image' wants float32 [batch, 1, 2, 2]; "),
        ("bad.json", b"[true]", "bad.json: input 'image' wants float32 [batch, 1, 2, 2]; "),
        ("bad.json", b"[1e300]", "bad.json: input 'image' wants float32 [batch, 1, 2, 2]: "),
        ("bad.json", b"[1, 2]", "bad.json: input 'image' has shape [2]; the model wants float32"),
        ("bad.json", b"{}", "bad.json: "),
    ],
)
def test_a_file_that_cannot_be_sent_is_one_line(
    name, content, message, shade, twinport, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = twinport("infer", "shade", name, "--url", shade.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"twinport: {message}")
    assert ran.err.count("\n") == 1


def test_pickled_arrays_are_never_loaded(shade, twinport, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", shade.url)
    assert ran.code == 1
    assert "holds no plain arrays" in ran.err


def test_a_folder_is_refused(shade, twinport, tmp_path):
    ran = twinport("infer", "shade", tmp_path, "--url", shade.url)
    assert ran.err == f"twinport: {tmp_path} is a folder; wanted PNG, JPEG, .npy, .npz or .json\n"


def test_the_servers_refusal_names_the_file(shade, twinport, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 2, 2)))
    ran = twinport("infer", "shade", tmp_path / "x.npy", "--url", shade.url)
    assert ran.code == 1
    assert ran.err == (
        f"twinport: {tmp_path}/x.npy: input 'image' has data type float64; "
        "the model wants float32 [batch, 1, 2, 2]\n"
    )


def test_nothing_is_sent_where_one_file_is_bad(shade, twinport, tmp_path):
    good = picture(tmp_path, "good.png", 1)
    assert twinport("infer", "shade", good, tmp_path / "none.png", "--url", shade.url).code == 1
    assert shade.requests == []


def test_a_picture_for_a_model_without_preprocessing_is_refused(serve_with, twinport, tmp_path):
    url = serve_with(**Shade(pictures=False).handlers())
    ran = twinport("infer", "shade", picture(tmp_path, "a.png", 1), "--url", url)
    assert ran.err == (
        "twinport: model 'shade' does not say how a picture becomes its input; "
        "give a.png as .npy, .npz or .json\n"
    )


def test_one_array_for_a_model_of_two_inputs_is_refused(serve_with, twinport, tmp_path):
    def two(request, context):
        tensor = protos.ModelMetadataResponse.TensorMetadata
        inputs = [tensor(name=name, datatype="INT64", shape=[2]) for name in ("a", "b")]
        return protos.ModelMetadataResponse(name="pair", inputs=inputs)

    np.save(tmp_path / "x.npy", np.zeros(1))
    ran = twinport("infer", "pair", tmp_path / "x.npy", "--url", serve_with(ModelMetadata=two))
    assert ran.code == 1
    assert "can be one input, and model 'pair' has 2 (a, b); give .npz or .json" in ran.err


@pytest.mark.parametrize("text", ["[1.5]", "[9223372036854775808]", '["1"]'])
def test_numbers_are_not_cut_to_fit_an_integer_input(text, serve_with, twinport, tmp_path):
    def whole(request, context):
        tensor = protos.ModelMetadataResponse.TensorMetadata(name="n", datatype="INT64", shape=[1])
        return protos.ModelMetadataResponse(name="whole", inputs=[tensor])

    (tmp_path / "x.json").write_text(text)
    ran = twinport("infer", "whole", tmp_path / "x.json", "--url", serve_with(ModelMetadata=whole))
    assert ran.code == 1
    assert "input 'n' wants int64 [1]" in ran.err


def test_an_unknown_model_is_one_line(shade, twinport, tmp_path):
    ran = twinport("infer", "shadow", picture(tmp_path, "a.png", 1), "--url", shade.url)
    assert ran == (1, "", "twinport: model 'shadow' is not known\n")


def test_a_server_that_is_not_there_is_one_line(twinport, tmp_path):
    ran = twinport("infer", "m", picture(tmp_path, "a.png", 1), "--url", "127.0.0.1:9")
    assert ran.code == 1
    assert ran.err == (
        "twinport: no server answers at 127.0.0.1:9; start one with `twinport serve REPOSITORY`\n"
    )


@pytest.mark.parametrize(
    "argv", [["shade"], [], ["shade", "a.png", "--top", "0"], ["shade", "a.png", "--version", "x"]]
)
def test_wrong_usage_exits_2(argv, twinport):
    assert twinport("infer", *argv).code == 2


@pytest.mark.parametrize("timeout", ["nan", "0"])
def test_a_time_limit_that_is_none_is_wrong_usage(timeout, twinport):
    ran = twinport("infer", "shade", "x.npy", "--timeout", timeout)
    assert (ran.code, ran.out) == (2, "")
    assert "is not in the range x>0" in ran.err
