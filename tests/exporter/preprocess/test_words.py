"""What ``--preprocess`` says is read whole or refused in one line."""

from __future__ import annotations

import pytest

from exporter.preprocess.words import EXAMPLE, PreprocessWords, words_from_text
from runtime.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("auto", PreprocessWords()),
        ("auto,input=image", PreprocessWords(input="image")),
        ("resize=32,scale=1/255,mean=0.1307,std=0.3081",
         PreprocessWords((32, 32), None, 1 / 255, (0.1307,), (0.3081,))),
        (" resize = 24x40 , input = x ", PreprocessWords((24, 40), input="x")),
        (EXAMPLE, PreprocessWords((256, 256), (224, 224), None, (0.485, 0.456, 0.406),
                                  (0.229, 0.224, 0.225))),
        ("mean=-1e-1,std=1/2", PreprocessWords(mean=(-0.1,), std=(0.5,))),
    ],
)  # fmt: skip
def test_words_are_read(text, words):
    assert words_from_text(text) == words


def test_auto_alone_leaves_all_to_the_models_record():
    assert words_from_text("auto").auto
    assert words_from_text("auto,input=x").auto
    assert not words_from_text("scale=1").auto


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lenet5", "cannot be read at 'lenet5'; wanted auto or resize, crop"),
        ("resize=32,resize=32", "cannot be read at 'resize=32'"),
        ("resize", "cannot be read at 'resize'"),
        ("resize=0", "resize=0 cannot be read; wanted HEIGHTxWIDTH"),
        ("resize=99999", "up to 16384"),
        ("resize=3x4x5", "resize=3x4x5 cannot be read"),
        ("resize=-3", "resize=-3 cannot be read"),
        ("scale=0", "wanted a scale above 0"),
        ("scale=1/0", "scale=1/0 cannot be read; wanted one number"),
        ("scale=1:2", "wanted one number \\(1/255"),
        ("mean=a", "mean=a cannot be read"),
        ("mean=nan", "mean=nan cannot be read"),
        ("mean=1:2", "wanted one number, or three"),
        ("std=0.2:0:0.1", "wanted every std above 0"),
        ("crop=224", "crop cuts what resize gives; add resize=SIZE"),
        ("resize=100,crop=224", "a crop of 224x224 is more than a shorter side of 100 has"),
        ("resize=300x400,crop=224", "before a crop resize is one number"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, said):
    with pytest.raises(InvalidInput, match=said) as caught:
        words_from_text(text)
    assert "\n" not in str(caught.value)
