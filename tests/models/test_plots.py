import numpy as np
from PIL import Image

from models.plots import curves_figure, experts_figure, predictions_figure, save_png
from models.run import EpochRecord

RECORDS = [EpochRecord(1, 2.0, 1.5, 0.5), EpochRecord(2, 1.0, 0.75, 0.875)]


def test_the_curves_show_both_losses_and_the_accuracy_per_epoch():
    losses, accuracies = curves_figure(RECORDS, "validation").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert lines == {"training": [[1, 2], [2, 1]], "validation": [[1, 1.5], [2, 0.75]]}
    assert accuracies.lines[0].get_xydata().tolist() == [[1, 50], [2, 87.5]]
    assert (losses.get_title(), accuracies.get_title()) == ("Loss", "Accuracy")


def test_each_prediction_is_titled_with_the_truth_and_a_wrong_one_is_red():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    left, right = predictions_figure(images, np.array([7, 3]), np.array([7, 5])).axes
    assert left.get_title() == "Pred: 7 / True: 7"
    assert right.get_title() == "Pred: 3 / True: 5"
    assert left.title.get_color() != right.title.get_color()
    assert np.array_equal(right.images[0].get_array(), images[1])


def test_the_heat_map_has_a_row_a_layer_and_a_column_an_expert_in_shares_of_the_layer():
    tokens = np.array([[30, 10, 40, 20], [0, 0, 9, 1], [7, 7, 7, 7]])
    axes = experts_figure(tokens).axes[0]
    (image,) = axes.images
    expected = [[30, 10, 40, 20], [0, 0, 90, 10], [25, 25, 25, 25]]
    np.testing.assert_allclose(image.get_array(), expected)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("expert", "layer")
    assert "even: 25" in axes.get_title()
    assert [text.get_text() for text in axes.texts[4:8]] == ["0.0", "0.0", "90.0", "10.0"]
    red, green, blue, _ = image.to_rgba(np.array([[25.0]]))[0, 0]
    assert min(red, green, blue) > 0.95, "an even share is white"
    assert image.norm.vmax == 90, "nothing is cut off"


def test_a_figure_is_written_as_png(tmp_path):
    save_png(curves_figure(RECORDS, "test"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
