import functools
import gzip
import hashlib
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms
from torchvision.datasets import MNIST

from models.data import (
    DataSet,
    Split,
    digits,
    find_mnist,
    lenet_transform,
    load_dataset,
    load_mnist,
    mean_and_std,
    mnist_at,
    prepare,
)
from models.download import raw_folder
from models.errors import DataMissing, UnknownName
from models.registry import entry


def images(count, side=28, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, count=12):
    raw = raw_folder(folder)
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images(count))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Mirrors on a port of this machine where nothing listens."""
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/mnist/"])


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working folder without data, and no variable that names one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    return tmp_path


def test_an_explicit_folder_goes_before_the_variable_and_the_variable_before_data(
    nowhere, monkeypatch
):
    assert mnist_at() is None
    write_mnist(nowhere / "data")
    assert mnist_at() == Path("data")
    monkeypatch.setenv("TWINPORT_DATA", str(nowhere / "named"))
    assert mnist_at() is None, "a folder that is named is not replaced by another"
    write_mnist(nowhere / "named")
    assert mnist_at() == nowhere / "named"
    assert mnist_at(nowhere / "given") is None
    write_mnist(nowhere / "given")
    assert find_mnist(nowhere / "given") == nowhere / "given"


def test_an_empty_variable_counts_as_none(nowhere, monkeypatch):
    write_mnist(nowhere / "data")
    monkeypatch.setenv("TWINPORT_DATA", "")
    assert mnist_at() == Path("data")


def test_a_folder_with_three_of_the_four_files_is_not_mnist(nowhere):
    write_mnist(nowhere / "data")
    (raw_folder(nowhere / "data") / "t10k-labels-idx1-ubyte").unlink()
    assert mnist_at() is None


def test_looking_for_mnist_downloads_nothing(nowhere, monkeypatch):
    monkeypatch.setattr(MNIST, "download", lambda self: pytest.fail("downloaded"))
    assert mnist_at() is None
    assert list(nowhere.iterdir()) == []


def test_without_a_network_one_line_says_what_to_do(nowhere, no_network, capfd):
    said = []
    with pytest.raises(DataMissing) as caught:
        find_mnist(None, said.append)
    text = str(caught.value)
    assert "\n" not in text
    assert "Connection refused" in text
    assert "data/MNIST/raw" in text
    assert "--data or TWINPORT_DATA" in text
    assert said == ["MNIST is not in 'data'; downloading it"]
    assert capfd.readouterr() == ("", ""), "torchvision's own output is kept away"
    assert list(nowhere.iterdir()) == [], "no folder is left behind"


def test_a_mirror_that_never_answers_is_given_up(nowhere, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        monkeypatch.setattr("models.download.SILENCE_S", 0.2)
        with pytest.raises(DataMissing, match="timed out"):
            find_mnist()
    assert socket.getdefaulttimeout() is None, "the limit is for the download alone"


def test_a_folder_that_cannot_be_written_is_one_line(nowhere):
    (nowhere / "file").write_text("")
    with pytest.raises(DataMissing, match="MNIST is not in 'file'"):
        find_mnist(Path("file"))


def test_a_download_that_breaks_off_leaves_no_short_files(nowhere, monkeypatch):
    def broken(self):
        Path(self.raw_folder, "train-images-idx3-ubyte").write_bytes(b"half")
        raise ConnectionResetError("gone")

    monkeypatch.setattr(MNIST, "download", broken)
    (nowhere / "data").mkdir()
    with pytest.raises(DataMissing, match="gone"):
        find_mnist()
    assert list((nowhere / "data").iterdir()) == []


@pytest.fixture
def mirror(tmp_path_factory, monkeypatch):
    """A mirror on this machine, with twelve images in each part."""
    shop = tmp_path_factory.mktemp("mirror")
    packed = {
        f"{file.name}.gz": gzip.compress(file.read_bytes())
        for file in raw_folder(write_mnist(shop)).iterdir()
    }
    for name, content in packed.items():
        (shop / name).write_bytes(content)
    handler = functools.partial(QuietHandler, directory=str(shop))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sums = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
        monkeypatch.setattr(MNIST, "resources", sums)
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield shop
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_download_is_quiet_and_ends_in_the_folder_that_was_named(nowhere, mirror, capfd):
    folder = find_mnist(nowhere / "fresh")
    assert capfd.readouterr() == ("", ""), "torchvision's progress bars are kept away"
    assert np.array_equal(load_mnist(folder, train=True).images, images(12))
    assert [path.name for path in folder.iterdir()] == ["MNIST"]
    assert len(list(raw_folder(folder).iterdir())) == 4


def test_packed_files_that_are_there_need_no_network(nowhere, mirror, monkeypatch):
    raw = raw_folder(nowhere / "data")
    raw.mkdir(parents=True)
    for packed in mirror.glob("*.gz"):
        (raw / packed.name).write_bytes(packed.read_bytes())
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert np.array_equal(load_mnist(find_mnist(), train=False).images, images(12))


def test_a_file_with_another_checksum_is_not_taken(nowhere, mirror):
    for packed in mirror.glob("t10k-labels*.gz"):
        packed.write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataMissing, match="corrupted"):
        find_mnist()
    assert list(nowhere.iterdir()) == []


def test_a_damaged_file_is_one_line_that_names_the_folder(nowhere):
    write_mnist(nowhere / "data")
    file = raw_folder(nowhere / "data") / "train-images-idx3-ubyte"
    for content in (file.read_bytes()[:100], b"", b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(DataMissing, match=r"MNIST cannot be read from 'data/MNIST/raw'"):
            load_dataset("mnist")


def test_mnist_is_read_through_torchvision_with_its_labels(nowhere):
    part = load_mnist(write_mnist(nowhere / "data"), train=False)
    assert np.array_equal(part.images, images(12))
    assert part.labels.tolist() == [*range(10), 0, 1]


def test_a_data_set_that_is_not_known_is_refused():
    with pytest.raises(UnknownName, match="no data set 'emnist'; use one of mnist, digits"):
        load_dataset("emnist")


def test_the_digits_need_no_network_and_are_framed_like_mnist():
    every = digits()
    assert every.images.shape == (1797, 28, 28)
    assert every.images.dtype == np.uint8
    assert np.bincount(every.labels).min() > 170
    ink = every.images.astype(float)
    places = np.arange(28) + 0.5
    for axis in (1, 2):
        centre = (ink.sum(3 - axis) * places).sum(1) / ink.sum((1, 2))
        assert np.abs(centre - 14).max() < 1.0, "centred by mass, to the pixel"
        inked = ink.any(3 - axis)
        extent = 28 - inked.argmax(1) - inked[:, ::-1].argmax(1)
        assert extent.max() <= 20, "inside the 20 by 20 box"
    assert ink.max() == 255


def test_the_parts_of_the_digits_do_not_overlap():
    data = load_dataset("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    every = digits()
    assert np.array_equal(np.concatenate([data.train.labels, data.test.labels]), every.labels)


def test_framing_is_what_lets_the_trained_model_read_the_digits():
    module = entry("lenet5").load()
    every = digits()
    plain = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)

    def accuracy(glyphs):
        with torch.inference_mode():
            return (module(prepare(glyphs)).argmax(1).numpy() == every.labels).mean()

    assert accuracy(every.images) > 0.89
    assert accuracy(every.images) > accuracy(plain) + 0.1


@pytest.mark.parametrize("side", [28, 8, 32, 50])
def test_preparing_many_images_gives_the_bits_of_the_source_transforms(side):
    given = images(40, side)
    transform = lenet_transform()
    one_by_one = torch.stack([transform(Image.fromarray(image)) for image in given])
    assert torch.equal(prepare(given), one_by_one)


def test_the_fingerprint_of_a_data_set_changes_with_a_pixel_and_with_a_label():
    def fingerprint(pixel=0, label=0):
        split = Split(np.full((2, 28, 28), pixel, np.uint8), np.array([label, 1]))
        return DataSet("mnist", split, split[:1]).sha256

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(pixel=1), fingerprint(label=1)}) == 3


class Colours(Dataset):
    """Images of several sizes, far from zero in one channel."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        scale, offset = torch.tensor([1.0, 0.1, 5.0]), torch.tensor([0.0, 1e6, -3.0])
        self.items = [
            torch.randn(3, 4 + n, 5, generator=generator, dtype=torch.float64)
            * scale[:, None, None]
            + offset[:, None, None]
            for n in range(7)
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index], index


class Stream(IterableDataset):
    def __iter__(self):
        yield from Colours().items


@pytest.mark.parametrize(
    "dataset", [Colours(), Stream(), DataLoader(Colours(), batch_size=None)], ids=type
)
def test_mean_and_deviation_are_those_of_all_pixels(dataset):
    pixels = torch.cat([item.flatten(1) for item in Colours().items], dim=1).numpy()
    mean, std = mean_and_std(dataset)
    assert mean == pytest.approx(pixels.mean(1), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(pixels.std(1), rel=1e-9)


def test_mean_and_deviation_of_bytes_do_not_overflow():
    mean, std = mean_and_std([torch.full((1, 100, 100), 255, dtype=torch.uint8)])
    assert (mean, std) == ((255.0,), (0.0,))


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ([], "empty"),
        ([Image.new("L", (2, 2))], "item 0 of the data set is a Image; wanted a tensor"),
        ([torch.zeros(2, 2)], r"tensor \[2, 2\]; wanted a tensor \[channels"),
        ([torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)], "item 1 has 3 channels; item 0 has 1"),
    ],
)
def test_what_has_no_mean_per_channel_is_refused(dataset, text):
    with pytest.raises(DataMissing, match=text):
        mean_and_std(dataset)


@pytest.mark.mnist
@pytest.mark.skipif(mnist_at() is None, reason="MNIST is not there; TWINPORT_DATA names it")
def test_mean_and_deviation_of_mnist_are_the_constants_of_the_transform():
    dataset = MNIST(str(mnist_at()), train=True, transform=transforms.ToTensor())
    mean, std = mean_and_std(dataset)
    assert mean == pytest.approx((0.1307,), abs=5e-5)
    assert std == pytest.approx((0.3081,), abs=5e-5)
