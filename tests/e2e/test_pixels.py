"""Pictures sent as they are to a model that prepares them: export, serve, infer as a user does."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import registry
from models.data import digits, lenet_transform
from runtime.client import Client
from runtime.errors import InvalidInput

TWINPORT = Path(sys.executable).with_name("twinport")
SIZES = ((28, 28), (28, 28), (28, 28), (56, 40), (90, 120))


def twinport(*argv: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TWINPORT), *map(str, argv)], capture_output=True, text=True, timeout=120,
        check=False, cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server):
    """A folder with the repository, and the address of its server."""
    folder = tmp_path_factory.mktemp("pixels")
    ran = twinport("export", "lenet5", "--name", "digits", "--preprocess", "-o", "repository",
                   folder=folder)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return folder, start_server(folder / "repository").address


@pytest.fixture(scope="module")
def pictures(served):
    """Digits as PNG files of several sizes."""
    folder, _ = served
    paths = [folder / f"digit{index}.png" for index in range(len(SIZES))]
    for path, pixels, (height, width) in zip(paths, digits().images, SIZES, strict=False):
        Image.fromarray(pixels).resize((width, height)).save(path)
    return paths


@pytest.fixture(scope="module")
def by_torch(pictures):
    transform = lenet_transform()
    images = torch.stack([transform(Image.open(path)) for path in pictures])
    with torch.no_grad():
        return registry.entry("lenet5").load()(images).numpy()


def test_infer_sends_pictures_of_several_sizes_and_prints_pytorchs_labels(
    served, pictures, by_torch
):
    folder, url = served
    ran = twinport("infer", "digits", *pictures, "--url", url, folder=folder)
    assert ran.returncode == 0, ran.stderr
    labels = [line.split()[1] for line in ran.stdout.splitlines()]
    assert labels == [str(row.argmax()) for row in by_torch]


def test_raw_pixels_give_the_logits_of_a_prepared_picture_up_to_pillows_rounding(
    served, pictures, by_torch
):
    with Client(served[1]) as client:
        for path, wanted in zip(pictures, by_torch, strict=True):
            pixels = np.asarray(Image.open(path))[np.newaxis, ..., np.newaxis]
            logits = client.infer("digits", {"image": pixels})["logits"][0]
            np.testing.assert_allclose(logits, wanted, atol=0.05 * np.abs(wanted).max())


def test_requests_of_several_sizes_come_together_and_are_answered_each_for_itself(served, pictures):
    arrays = [np.asarray(Image.open(path))[np.newaxis, ..., np.newaxis] for path in pictures] * 4
    with Client(served[1]) as client, ThreadPoolExecutor(len(arrays)) as pool:
        alone = [client.infer("digits", {"image": array})["logits"] for array in arrays]
        together = list(
            pool.map(lambda array: client.infer("digits", {"image": array})["logits"], arrays)
        )
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_client_classifies_and_what_is_no_picture_is_refused(served, pictures, by_torch):
    with Client(served[1]) as client:
        labels = client.classify("digits", pictures[:3])
        assert [item[0].index for item in labels] == by_torch[:3].argmax(1).tolist()
        assert client.model_metadata("digits").properties.preprocessing.done_by == "artifact"
        with pytest.raises(InvalidInput, match="image"):
            client.infer("digits", {"image": np.zeros((1, 1, 32, 32), np.float32)})
        with pytest.raises(InvalidInput, match="height = 5000"):
            client.infer("digits", {"image": np.zeros((1, 5000, 1, 1), np.uint8)})


def test_a_prepared_model_of_the_same_name_is_refused(served):
    folder, _ = served
    before = sorted((folder / "repository").rglob("*"))
    ran = twinport("export", "lenet5", "--name", "digits", "-o", "repository", folder=folder)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].count("--name") == 1
    assert sorted((folder / "repository").rglob("*")) == before
    ran = twinport("parity", "repository/digits", folder=folder)
    assert ran.returncode == 0, ran.stderr
