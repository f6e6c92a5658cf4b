import pytest
import torch
from torch import nn

from exporter.look.autograd import require_graphviz, save_autograd_graph
from runtime.errors import BackendUnavailable, ExportError, InvalidInput

needs_dot = pytest.mark.needs_tool("dot", "apt-get install graphviz")


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@needs_dot
def test_the_picture_names_the_parameters_and_operations(network, tmp_path):
    output = network(torch.zeros(1, 3))
    stem = tmp_path / "new" / "net-epoch-1.5"
    path = save_autograd_graph(output, dict(network.named_parameters()), stem, "svg")
    assert path == tmp_path / "new" / "net-epoch-1.5.svg"
    text = path.read_text()
    for word in ("0.weight", "0.bias", "2.weight", "2.bias", "ReluBackward0", "(4, 3)"):
        assert word in text
    assert [item.name for item in path.parent.iterdir()] == [path.name], "no dot source beside it"


@needs_dot
def test_the_picture_is_png_by_default(network, tmp_path):
    path = save_autograd_graph(network(torch.zeros(1, 3)), {}, tmp_path / "net")
    assert path.suffix == ".png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_graphviz_is_one_line_with_the_cure(network, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (
        require_graphviz,
        lambda: save_autograd_graph(network(torch.zeros(1, 3)), {}, tmp_path / "net"),
    ):
        with pytest.raises(BackendUnavailable) as caught:
            ask()
        text = str(caught.value)
        assert "\n" not in text
        assert "'dot'" in text
        assert "apt-get install graphviz" in text
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_graph_is_refused(network, tmp_path):
    with torch.no_grad():
        output = network(torch.zeros(1, 3))
    with pytest.raises(InvalidInput, match="no autograd graph; run the module outside no_grad"):
        save_autograd_graph(output, {}, tmp_path / "net")


def test_a_format_that_is_not_known_is_refused(network, tmp_path):
    with pytest.raises(InvalidInput, match="'bmp' is not known; use one of png, svg, pdf"):
        save_autograd_graph(network(torch.zeros(1, 3)), {}, tmp_path / "net", "bmp")


@needs_dot
def test_a_folder_that_cannot_be_written_is_one_line(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be drawn to"):
        save_autograd_graph(network(torch.zeros(1, 3)), {}, tmp_path / "file" / "net")
