from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from runtime.errors import InvalidInput, NotFound
from runtime.manifest import Preprocessing
from runtime.preprocess import array_from_image, read_image, top_labels
from runtime.tensors import spec_from_text

GRAY = Preprocessing("image", "gray", 32, 32, (0.1307,), (0.3081,))
RGB = Preprocessing("image", "rgb", 24, 40, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Preprocessing("image", "gray", 1, 1, (0.0,), (1.0,))


def by_torchvision(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    steps = transforms.Compose(
        [
            transforms.Resize((preprocessing.height, preprocessing.width)),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    return steps(image).numpy()


def noise(height: int, width: int, *channels: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, *channels))
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def value_of(image: Image.Image) -> int:
    """The gray, 0 to 255, that a picture of one pixel becomes."""
    return round(float(array_from_image(image, PLAIN)[0, 0, 0]) * 255)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (7, 91), (1, 1), (301, 200)])
def test_gray_is_bit_for_bit_what_torchvision_makes(height, width):
    image = noise(height, width)
    array = array_from_image(image, GRAY)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, by_torchvision(image, GRAY))


def test_every_gray_is_bit_for_bit_what_torchvision_makes():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    same_size = Preprocessing("image", "gray", 16, 16, (0.1307,), (0.3081,))
    ours, theirs = array_from_image(image, same_size), by_torchvision(image, same_size)
    assert len(np.unique(ours)) == 256
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (33, 17), (250, 300)])
def test_colour_is_bit_for_bit_what_torchvision_makes(height, width):
    image = noise(height, width, 3)
    array = array_from_image(image, RGB)
    assert array.shape == (3, 24, 40)
    np.testing.assert_array_equal(array, by_torchvision(image, RGB))


def test_the_array_is_one_that_torch_and_the_wire_take_without_a_copy():
    array = array_from_image(noise(9, 9, 3), RGB)
    assert array.flags.c_contiguous
    assert torch.from_numpy(array).is_contiguous()


def test_one_mean_serves_three_channels_as_in_torchvision():
    one = Preprocessing("image", "rgb", 8, 8, (0.5,), (0.25,))
    image = noise(8, 8, 3)
    np.testing.assert_array_equal(array_from_image(image, one), by_torchvision(image, one))


def test_colour_becomes_gray_before_it_is_resized():
    image = noise(60, 50, 3)
    np.testing.assert_array_equal(
        array_from_image(image, GRAY), by_torchvision(image.convert("L"), GRAY)
    )


def test_gray_becomes_three_equal_channels_for_a_colour_model():
    plain = Preprocessing("image", "rgb", 20, 20, (0.0,), (1.0,))
    array = array_from_image(noise(20, 20), plain)
    np.testing.assert_array_equal(array[0], array[1])
    np.testing.assert_array_equal(array[0], array[2])


@pytest.mark.parametrize(
    ("pixel", "gray"),
    [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 51), 204), ((90, 90, 90, 255), 90)],
)
def test_transparent_parts_lie_on_white(pixel, gray):
    assert value_of(Image.new("RGBA", (1, 1), pixel)) == gray


def test_gray_with_alpha_lies_on_white():
    assert value_of(Image.new("LA", (1, 1), (40, 0))) == 255
    assert value_of(Image.new("LA", (1, 1), (40, 255))) == 40


def test_a_palette_is_looked_up_and_its_transparent_entry_lies_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 10, 10, 77, 77, 77])
    palette.putdata([0, 1])
    kept = Image.open(encoded(palette, transparency=0))
    wide = Preprocessing("image", "gray", 1, 2, (0.0,), (1.0,))
    assert [round(float(v) * 255) for v in array_from_image(kept, wide)[0, 0]] == [255, 77]


@pytest.mark.parametrize(("wide", "gray"), [(0, 0), (65535, 255), (32896, 128), (257, 1)])
def test_sixteen_bits_are_scaled_and_not_clipped(wide, gray):
    image = Image.open(encoded(Image.fromarray(np.array([[wide]], dtype=np.uint16))))
    assert value_of(image) == gray


def test_black_and_white_are_0_and_255():
    assert [value_of(Image.new("1", (1, 1), bit)) for bit in (0, 1)] == [0, 255]


def test_invert_swaps_light_and_dark():
    image = Image.new("L", (1, 1), 200)
    assert round(float(array_from_image(image, PLAIN, invert=True)[0, 0, 0]) * 255) == 55


@pytest.mark.parametrize("mean", [(0.1, 0.2), ()])
def test_statistics_that_do_not_fit_the_channels_are_refused(mean):
    with pytest.raises(InvalidInput, match="do not fit 3 channels"):
        array_from_image(noise(4, 4, 3), Preprocessing("image", "rgb", 4, 4, mean, (1.0,)))


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(InvalidInput, match="std not zero"):
        array_from_image(noise(4, 4), Preprocessing("image", "gray", 4, 4, (0.0,), (0.0,)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_is_what_its_bytes_say_and_not_its_name(kind, tmp_path):
    path = tmp_path / "picture.dat"
    path.write_bytes(encoded(noise(20, 20, 3), kind).getvalue())
    assert read_image(path).size == (20, 20)


def test_a_picture_is_turned_upright_as_its_exif_says(tmp_path):
    upright = noise(6, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = saved(tmp_path, upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(upright))


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="there is no file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("data", [b"", b"not a picture", b"GIF89a" + bytes(40)])
def test_what_is_no_picture_is_refused(data, tmp_path):
    path = tmp_path / "some.png"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"some\.png is not a picture; wanted PNG or JPEG"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_picture_is_refused(kind, tmp_path):
    data = encoded(noise(80, 80, 3), kind).getvalue()
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInput, match=r"cut\.png cannot be read as a picture"):
        read_image(path)


@pytest.mark.parametrize("limit", [100, 250])
def test_a_picture_of_too_many_pixels_is_refused(limit, tmp_path, monkeypatch):
    path = saved(tmp_path, noise(20, 20))  # 400 pixels: a warning above 250, an error above 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InvalidInput, match=f"more pixels than the {limit}"):
        read_image(path)


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    originals = [encoded(noise(9, 9), kind, exif=exif).getvalue() for kind in ("PNG", "JPEG")]
    path = tmp_path / "damaged"
    refusals = []
    for index in range(300):
        data = bytearray(originals[index % 2])
        for position in rng.integers(0, len(data), 4):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert array_from_image(read_image(path), GRAY).shape == (1, 32, 32)
        except InvalidInput as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 300
    assert not [text for text in refusals if "\n" in text]


def test_labels_come_best_first_with_their_probability():
    best, second = top_labels(np.array([0.0, 2.0, 1.0]), ["a", "b", "c"], 2)
    assert (best.index, best.name) == (1, "b")
    assert best.probability == pytest.approx(np.exp(2) / (1 + np.e + np.exp(2)))
    assert (second.index, second.name) == (2, "c")


def test_a_distribution_is_not_softened_again():
    values = np.array([0.25, 0.75], dtype=np.float32)
    assert [label.probability for label in top_labels(values, ["a", "b"], 5)] == [0.75, 0.25]


def test_large_logits_do_not_overflow():
    (best,) = top_labels(np.array([1e4, 0.0], dtype=np.float32), ["a", "b"], 1)
    assert best.probability == 1.0


def test_equal_logits_go_by_index():
    assert [label.index for label in top_labels(np.full(3, 7.0), ["a", "b", "c"], 3)] == [0, 1, 2]


def test_not_a_number_comes_last_and_shows():
    labels = top_labels(np.array([np.nan, 1.0]), ["a", "b"], 2)
    assert [label.name for label in labels] == ["b", "a"]
    assert all(np.isnan(label.probability) for label in labels)


def test_labels_that_do_not_fit_the_answer_are_refused():
    with pytest.raises(InvalidInput, match=r"shape \[3\] and there are 2 labels"):
        top_labels(np.zeros(3), ["a", "b"], 1)


SENT = Preprocessing("image", "gray", 4, 4, (0.1307,), (0.3081,), done_by="artifact")


@pytest.mark.parametrize(("color", "channels"), [("gray", 1), ("rgb", 3)])
def test_an_artifact_that_prepares_itself_gets_the_pixels_as_they_are(color, channels):
    image = noise(7, 5, 3)
    sent = dataclasses.replace(SENT, color=color)
    pixels = array_from_image(image, sent, wanted=spec_from_text(f"x:uint8[b,h,w,{channels}]"))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (7, 5, channels))
    plain = np.asarray(image.convert("L") if channels == 1 else image).reshape(7, 5, channels)
    np.testing.assert_array_equal(pixels, plain)
    np.testing.assert_array_equal(array_from_image(image, sent), pixels)
    inverted = array_from_image(image, sent, invert=True)
    np.testing.assert_array_equal(inverted, 255 - pixels)


@pytest.mark.parametrize(("text", "sides"), [("b,3,6,1", (3, 6)), ("b,3,w,1", (3, 9))])
def test_pixels_are_resized_where_the_artifact_takes_one_size_only(text, sides):
    image = noise(8, 9)
    pixels = array_from_image(image, SENT, wanted=spec_from_text(f"x:uint8[{text}]"))
    wanted = image.resize(sides[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(wanted))


@pytest.mark.parametrize("sides", [(300, 401), (401, 300), (256, 256), (257, 513), (99, 998)])
def test_a_shorter_side_and_a_crop_are_bit_for_bit_what_torchvision_makes(sides):
    image = noise(*sides, 3)
    crop = dataclasses.replace(RGB, height=64, width=48, short_side=72)
    wanted = transforms.Compose(
        [
            transforms.Resize(72),
            transforms.CenterCrop((64, 48)),
            transforms.ToTensor(),
            transforms.Normalize(crop.mean, crop.std),
        ]
    )
    np.testing.assert_array_equal(array_from_image(image, crop), wanted(image).numpy())
