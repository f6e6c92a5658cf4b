"""Pictures in and labels out, a token, files of TLS: what both clients share."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading

import numpy as np
import pytest
from PIL import Image

import protos
from runtime.client import Client
from runtime.client_async import AsyncClient
from runtime.client_wire import Connection, Tls
from runtime.codec import arrays_from_request, response_from_arrays
from runtime.errors import DeadlineExceeded, InvalidInput
from runtime.manifest import Preprocessing
from runtime.properties import LABELS, PREPROCESSING
from runtime.tensors import TensorSpec

SHADE = Preprocessing("image", "gray", 2, 2, (0.0,), (1.0,))
SPEC = TensorSpec("image", "float32", ("batch", 1, 2, 2))
PROPERTIES = {
    PREPROCESSING: json.dumps(dataclasses.asdict(SHADE)),
    LABELS: json.dumps(["dark", "light"]),
}


def served(serve_with, properties, seen):
    """A model whose logits are the mean darkness and lightness of a picture."""

    def metadata(request, context):
        tensor = protos.ModelMetadataResponse.TensorMetadata
        return protos.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name="image", datatype="FP32", shape=[-1, 1, 2, 2])],
            outputs=[tensor(name="logits", datatype="FP32", shape=[-1, 2])],
            properties=properties,
        )

    def infer(request, context):
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        light = arrays_from_request(request, {"image": SPEC})["image"].mean(axis=(1, 2, 3))
        logits = np.stack([1 - light, light], axis=1)
        return response_from_arrays({"logits": logits}, model="shade", version="1")

    return serve_with(ModelMetadata=metadata, ModelInfer=infer)


def classify(kind, url, pictures, **options):
    if kind == "sync":
        with Client(url, token="secret") as client:
            return client.classify("shade", pictures, **options)

    async def run():
        async with AsyncClient(url, token="secret") as client:
            return await client.classify("shade", pictures, **options)

    return asyncio.run(run())


@pytest.fixture
def pictures(tmp_path):
    Image.new("L", (9, 9), 250).save(tmp_path / "light.png")
    return [tmp_path / "light.png", Image.new("RGB", (4, 4), (1, 2, 3))]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_pictures_are_prepared_and_named_as_the_manifest_says(kind, serve_with, pictures):
    seen = []
    url = served(serve_with, PROPERTIES, seen)
    light, dark = classify(kind, url, pictures, top=2)
    assert [label.name for label in light] == ["light", "dark"]
    assert [label.name for label in dark] == ["dark", "light"]
    assert seen == ["Bearer secret"], "one request for all, and the token with it"
    inverted = classify(kind, url, pictures, invert=True)
    assert [labels[0].name for labels in inverted] == ["dark", "light"]


@pytest.mark.parametrize("missing", [PREPROCESSING, LABELS])
def test_a_model_that_does_not_say_how_is_refused(missing, serve_with, pictures):
    properties = {key: value for key, value in PROPERTIES.items() if key != missing}
    with pytest.raises(InvalidInput, match=r"does not say how|has no labels"):
        classify("sync", served(serve_with, properties, []), pictures)


def test_no_picture_is_refused(serve_with):
    with pytest.raises(InvalidInput, match="at least one"):
        classify("sync", served(serve_with, PROPERTIES, []), [])


@pytest.mark.parametrize("token", ["a\nb", "ü"])
def test_a_token_that_no_header_takes_is_refused_and_not_shown(token):
    with pytest.raises(InvalidInput) as caught:
        Connection("127.0.0.1:1", token=token)
    assert token not in str(caught.value)


def test_the_token_is_not_in_what_is_printed_of_a_connection():
    assert "secret" not in repr(Connection("127.0.0.1:1", token="secret"))


def test_files_of_tls_are_checked_before_anything_is_called(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.pem cannot be read: No such file"):
        Client("127.0.0.1:1", tls=Tls(ca=tmp_path / "none.pem"))
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", str(tmp_path / "ca.pem")):
        with pytest.raises(InvalidInput, match=r"ca\.pem holds no certificate"):
            Client("127.0.0.1:1", tls=Tls(ca=path))
    with pytest.raises(InvalidInput, match="both"):
        Tls(cert=tmp_path / "ca.pem")


PIXELS = dataclasses.replace(SHADE, done_by="artifact")


def served_pixels(serve_with, shapes):
    """The same of a model that takes pixels of any size."""

    def metadata(request, context):
        tensor = protos.ModelMetadataResponse.TensorMetadata
        return protos.ModelMetadataResponse(
            name=request.name,
            inputs=[tensor(name="image", datatype="UINT8", shape=[-1, -1, -1, 1])],
            outputs=[tensor(name="logits", datatype="FP32", shape=[-1, 2])],
            properties={**PROPERTIES, PREPROCESSING: json.dumps(dataclasses.asdict(PIXELS))},
        )

    def infer(request, context):
        spec = TensorSpec("image", "uint8", ("batch", "height", "width", 1))
        pixels = arrays_from_request(request, {"image": spec})["image"]
        shapes.append(pixels.shape)
        light = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        logits = np.stack([1 - light, light], axis=1)
        return response_from_arrays({"logits": logits}, model="shade", version="1")

    return serve_with(ModelMetadata=metadata, ModelInfer=infer)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_pictures_go_as_pixels_to_a_model_that_prepares_them(kind, serve_with, pictures):
    shapes = []
    url = served_pixels(serve_with, shapes)
    light, dark = Image.new("L", (9, 4), 250), Image.new("RGB", (9, 4), (1, 2, 3))
    labels = classify(kind, url, [light, dark])
    assert [item[0].name for item in labels] == ["light", "dark"]
    assert shapes == [(2, 4, 9, 1)]
    with pytest.raises(InvalidInput, match=r"2 sizes \(4x4, 9x9\) and model 'shade' takes pixels"):
        classify(kind, url, pictures)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_all_of_a_classification_shares_its_time(kind, serve_with, pictures):
    over = threading.Event()

    def metadata(request, context):
        over.wait(30)
        return protos.ModelMetadataResponse()

    url = serve_with(ModelMetadata=metadata)
    with pytest.raises(DeadlineExceeded, match="gave no answer in time"):
        classify(kind, url, pictures, timeout_s=0.2)
    over.set()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("one.png", "the pictures are one; wanted a list"),
        (Image.new("L", (2, 2)), "the pictures are one; wanted a list"),
        ([np.zeros((2, 2), np.uint8)], "a picture is a ndarray; wanted a file"),
        ([Image.new("L", (0, 3))], "the picture has 0x3 pixels"),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(wrong, said, serve_with):
    with pytest.raises(InvalidInput, match=said):
        classify("sync", served(serve_with, PROPERTIES, []), wrong)


@pytest.mark.parametrize("top", [0, -1])
def test_fewer_than_one_class_is_refused(top, serve_with, pictures):
    with pytest.raises(InvalidInput, match="ask for 1 or more"):
        classify("sync", served(serve_with, PROPERTIES, []), pictures, top=top)
