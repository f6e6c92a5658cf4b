"""``twinport export``, ``serve``, ``infer`` as the processes that a user starts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import registry
from models.data import digits, lenet_transform
from runtime.client import Client
from runtime.errors import InvalidInput, NotFound

TWINPORT = Path(sys.executable).with_name("twinport")
SHOWN = 70
"""More than one request of the 64 pictures that LeNet-5 was proved with."""


def twinport(*argv: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TWINPORT), *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="module")
def url(start_server, lenet5_repository):
    """The address of a server of LeNet-5."""
    return start_server(lenet5_repository).address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Real digits as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"digit{index:02}.png" for index in range(SHOWN)]
    for path, pixels in zip(paths, digits().images, strict=False):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def by_torch(pictures):
    """``[SHOWN, 10]`` what PyTorch and torchvision make of the same files."""
    transform = lenet_transform()
    images = torch.stack([transform(Image.open(path)) for path in pictures])
    with torch.no_grad():
        return registry.entry("lenet5").load()(images).numpy()


def test_every_picture_gets_the_label_that_pytorch_gives_it(url, pictures, by_torch):
    done = twinport("infer", "lenet5", *pictures, "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _, _ in words] == [str(path) for path in pictures]
    assert [int(label) for _, label, _ in words] == by_torch.argmax(1).tolist()
    chances = torch.from_numpy(by_torch).double().softmax(1).numpy().max(1)
    assert [chance for _, _, chance in words] == [f"({chance:.3f})" for chance in chances]


def test_the_served_numbers_are_those_of_pytorch(url, pictures, by_torch):
    done = twinport("infer", "lenet5", *pictures, "--url", url, "--json")
    answers = json.loads(done.stdout)["answers"]
    logits = np.concatenate([answer["outputs"]["logits"]["data"] for answer in answers])
    error = np.sqrt(np.mean((logits - by_torch) ** 2)) / np.sqrt(np.mean(by_torch**2))
    assert logits.shape == (SHOWN, 10)
    assert error < 1e-6


def test_arrays_and_json_give_what_the_picture_gives(url, pictures, tmp_path):
    image = lenet_transform()(Image.open(pictures[3]))[None].numpy()
    np.save(tmp_path / "x.npy", image)
    np.savez(tmp_path / "x.npz", image=image)
    (tmp_path / "x.json").write_text(json.dumps({"image": image.tolist()}))
    files = [pictures[3], *(tmp_path / f"x.{ending}" for ending in ("npy", "npz", "json"))]
    done = twinport("infer", "lenet5", *files, "--url", url, "--json")
    answers = json.loads(done.stdout)["answers"]
    assert len(answers) == 4
    for answer in answers[1:]:
        assert answer["outputs"] == answers[0]["outputs"]
        assert answer["labels"] == answers[0]["labels"]


def test_the_server_tells_the_client_what_was_proved(url):
    with Client(url) as client:
        model = client.model_metadata("lenet5")
    assert [str(spec) for spec in model.inputs] == ["float32 [batch, 1, 32, 32]"]
    assert (model.properties.proof, model.properties.proved_here) == ("passed", "passed")
    assert model.properties.labels == tuple("0123456789")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lenet6", "x.npy"], "lenet6"),
        (["lenet5", "x.npy", "--version", "9"], "9"),
        (["lenet5", "x.npy"], "x.npy: input 'image' has shape [1, 3, 32, 32]; the model wants"),
        (["lenet5", "x.txt"], "x.txt is not a picture; wanted PNG or JPEG"),
        (["lenet5", "x.npz"], "x.npz: input 'picture' is not known; the model has image"),
        (["lenet5", "good.png", "--output", "softmax"], "output 'softmax' is not known"),
    ],
)
def test_wrong_input_is_one_line_and_exit_1(argv, said, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = np.zeros((1, 3, 32, 32), dtype=np.float32)
    np.save(tmp_path / "x.npy", wrong)
    np.savez(tmp_path / "x.npz", picture=wrong)
    (tmp_path / "x.txt").write_text("words")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    done = twinport("infer", *argv, "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.startswith("twinport: ")
    assert done.stderr.count("\n") == 1


def test_the_library_raises_what_the_server_means(url):
    with Client(url) as client:
        with pytest.raises(NotFound):
            client.infer("lenet6", {"image": np.zeros((1, 1, 32, 32), np.float32)})
        with pytest.raises(InvalidInput, match=r"float64; the model wants float32"):
            client.infer("lenet5", {"image": np.zeros((1, 1, 32, 32))})


def test_a_server_that_is_not_there_is_one_line(pictures):
    done = twinport("infer", "lenet5", pictures[0], "--url", "127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == (
        "twinport: no server answers at 127.0.0.1:9; start one with `twinport serve REPOSITORY`\n"
    )


def test_a_picture_takes_the_shape_that_the_configuration_gives_clients(
    start_server, lenet5_repository, pictures, by_torch, tmp_path
):
    repository = tmp_path / "repository"
    shutil.copytree(lenet5_repository, repository)
    config = repository / "lenet5" / "config.pbtxt"
    text = config.read_text()
    for own, wire in (("[1, 32, 32]", "[1024]"), ("[10]", "[10, 1, 1]")):
        text = text.replace(f"dims: {own}", f"dims: {wire} reshape {{ shape: {own} }}")
    config.write_text(text)
    url = start_server(repository).address
    ran = twinport("infer", "lenet5", *pictures[:3], "--url", url)
    assert ran.returncode == 0, ran.stderr
    labels = by_torch[:3].argmax(1)
    assert [line.split()[1] for line in ran.stdout.splitlines()] == [str(each) for each in labels]
    with Client(url) as client:
        (first, *_), *_ = client.classify("lenet5", pictures[:3])
    assert first.name == str(labels[0])
