"""The module that is meant is found, and whatever is wrong with it is said in one line."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from exporter.source import SourceRequest, load_source
from runtime.errors import ExportError, InvalidInput, NotFound, TwinportError
from runtime.tensors import spec_from_text

NET = """
import torch
from torch import nn
from helper import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, WIDTH)
    def forward(self, x, scale=None):
        return self.layer(x)

made = Net()
def make():
    return Net()
def half():
    return Net().half()
def wrong():
    return 3
def broken():
    raise ValueError("no\\nsuch luck")
def needs(path):
    return Net()
def leaves():
    raise SystemExit(0)
def lazy():
    return nn.LazyLinear(3)
def meta():
    with torch.device("meta"):
        return Net()
def parallel():
    return nn.DataParallel(Net().train())
def compiled():
    return torch.compile(Net())
def script():
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(Net())
def partly():
    return nn.Sequential(Net(), script())
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Imports of a test are forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "pytest-of" in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


@pytest.fixture
def net(tmp_path):
    folder = tmp_path / "my code"
    folder.mkdir()
    (folder / "net-v2.py").write_text(NET)
    (folder / "helper.py").write_text("WIDTH = 3\n")
    return folder / "net-v2.py"


def load(model, *inputs, ranges=None, values=None, weights=None):
    specs = tuple(spec_from_text(text) for text in inputs or ("x:float32[batch,4]",))
    return load_source(SourceRequest(str(model), weights, specs, ranges or {}, values or {}))


def refused(error, model, *inputs, **given):
    with pytest.raises(error) as caught:
        load(model, *inputs, **given)
    assert isinstance(caught.value, TwinportError)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("attribute", ["make", "Net", "made"])
def test_a_function_a_class_and_an_instance_are_factories(net, attribute):
    source = load(f"{net}:{attribute}")
    assert source.module_class == "net_v2.Net"
    assert source.parameters == 15
    assert source.factory == f"net-v2.py:{attribute}", "no folder of the machine"
    assert source.name == attribute.lower()
    assert not source.module.training
    assert source.checkpoint_sha256 is None


@pytest.mark.parametrize("attribute", ["parallel", "compiled"])
def test_wrappers_for_training_and_speed_are_taken_off(net, attribute):
    source = load(f"{net}:{attribute}")
    assert source.module_class == "net_v2.Net"
    assert not source.module.training


def test_a_file_named_as_a_module_in_use_takes_nobodys_place(tmp_path):
    import json

    (tmp_path / "json.py").write_text("from torch import nn\nmake = lambda: nn.Linear(4, 2)\n")
    assert load(f"{tmp_path / 'json.py'}:make", "input:float32[batch,4]").parameters == 10
    assert sys.modules["json"] is json


def test_a_package_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "net.py").write_text("from torch import nn\nmake = nn.Identity\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        source = load("shapes.net:make", "input:float32[batch,4]")
        assert source.factory == "shapes.net:make"


def test_a_name_that_is_loaded_from_elsewhere_says_what_to_do(tmp_path, monkeypatch):
    import models

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "models", models)
    text = refused(ExportError, "models.net:make")
    assert "'models' is loaded from elsewhere already" in text
    assert "path/to/file.py:factory" in text


def test_a_package_that_hides_our_own_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    assert "hides Twinport's own" in refused(ExportError, "lenet5", "image:float32[n,1,32,32]")


@pytest.mark.parametrize(
    ("attribute", "error", "text"),
    [
        ("nothing", NotFound, "net-v2.py has no 'nothing'"),
        ("wrong", ExportError, "net-v2.py:wrong gave an int; wanted a torch.nn.Module"),
        ("broken", ExportError, "net-v2.py:broken failed: ValueError: no"),
        ("needs", ExportError, "it is called without arguments"),
        ("leaves", ExportError, "net-v2.py:leaves failed: SystemExit: 0"),
        ("half", ExportError, "'layer.weight' of the module is float16; wanted float32"),
        ("lazy", ExportError, "'weight' of the module has no shape yet; call it once"),
        ("meta", ExportError, "'layer.weight' of the module is on the meta device"),
        ("script", ExportError, "the module is TorchScript"),
        ("partly", ExportError, "module '1' is TorchScript, which torch.export does not take"),
        ("a-b", InvalidInput, "cannot be read; wanted NAME, package.module:factory"),
    ],
)
def test_a_factory_that_does_not_work_is_one_line(net, attribute, error, text):
    assert text in refused(error, f"{net}:{attribute}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import nowhere_to_be_found", "fails on import: ModuleNotFoundError"),
        ("def f(:", "fails on import: SyntaxError"),
        ("raise RuntimeError", "fails on import: RuntimeError"),
        ("import sys; sys.exit(0)", "fails on import: SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, code, text):
    (tmp_path / "bad_net.py").write_text(code)
    assert text in refused(ExportError, f"{tmp_path / 'bad_net.py'}:make")
    monkeypatch.chdir(tmp_path)
    assert text in refused(ExportError, "bad_net:make")


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "gone.py does not exist" in refused(NotFound, "gone.py:make")
    text = refused(NotFound, "gone.net:make")
    assert "no module 'gone' from here" in text
    assert "); give your own as package.module:factory, path" in refused(NotFound, "lenet6")
    assert "names no factory; add the function's name: net.py:make" in refused(NotFound, "net.py")
    text = refused(NotFound, "net.safetensors")
    assert "is a file of weights; give the module that they are of: path/to/file.py:" in text


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (("y:float32[batch,4]",), "input 'y' is described, but forward takes x, scale"),
        (("scale:float32[1]",), "input 'x' of forward is not described; add --input 'x:"),
        (("x:float32[batch,4]", "x:float32[4]"), "described twice"),
    ],
)
def test_inputs_are_those_of_forward(net, inputs, text):
    assert text in refused(InvalidInput, f"{net}:make", *inputs)


def test_no_input_at_all_shows_the_form(net):
    with pytest.raises(InvalidInput, match=r"no input is described and forward takes x, scale"):
        load_source(SourceRequest(f"{net}:make"))


def test_inputs_come_in_the_order_of_forward_and_optional_ones_may_be_left_out(net):
    source = load(f"{net}:make", "scale:float32[1]", "x:float32[batch,4]")
    assert [spec.name for spec in source.inputs] == ["x", "scale"]
    assert [spec.name for spec in load(f"{net}:make").inputs] == ["x"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ranges": {"seq": (1, 2)}}, "--range names the axis 'seq'; the free axes are batch"),
        ({"ranges": {"batch": (4, 2)}}, "--range batch=4:2 is empty; wanted 0 <= low <= high"),
        ({"ranges": {"batch": (0, 0)}}, "--range batch=0:0 is empty"),
        ({"values": {"y": (0, 2)}}, "--values names the input 'y', which is not described"),
        ({"values": {"x": (2, 2)}}, "--values x=2:2 is empty; wanted low < high"),
    ],
)
def test_ranges_and_values_are_of_what_is_there(net, given, text):
    assert text in refused(InvalidInput, f"{net}:make", **given)


@pytest.mark.parametrize(
    ("inputs", "values", "text"),
    [
        (("x:int64[batch,4]",), (0.5, 3), "--values x=0.5:3: 'x' is int64; wanted whole numbers"),
        (("x:float32[batch,4]",), (0, float("inf")), "--values x=0:inf: wanted finite numbers"),
    ],
)
def test_values_that_the_data_type_cannot_take_are_refused(net, inputs, values, text):
    assert text in refused(InvalidInput, f"{net}:make", *inputs, values={"x": values})


def test_values_of_floats_may_be_decimals(net):
    source = load(f"{net}:make", "x:float32[batch,4]", values={"x": (-0.5, 0.5)})
    assert source.values == {"x": (-0.5, 0.5)}


def test_a_range_of_one_size_fixes_the_axis(net):
    source = load(f"{net}:make", ranges={"batch": (2, 2)})
    assert source.inputs[0].shape == (2, 4)
    assert source.ranges == {}


def test_the_state_hash_sees_values_names_and_types(net):
    source = load(f"{net}:made")
    seen = [source.state_sha256()]
    assert source.state_sha256() == seen[0]
    with torch.no_grad():
        source.module.layer.bias[0] += 1e-3
    seen.append(source.state_sha256())
    source.module.register_buffer("more", torch.zeros(()))
    seen.append(source.state_sha256())
    source.module.more = source.module.more.to(torch.int32)
    seen.append(source.state_sha256())
    assert len(set(seen)) == 4


@pytest.fixture(scope="module")
def lenet():
    return load_source(SourceRequest("lenet5"))


def test_the_built_in_model_brings_its_own_description(lenet):
    assert (lenet.name, lenet.factory, lenet.builtin) == ("lenet5",) * 3
    assert str(lenet.inputs[0]) == "float32 [batch, 1, 32, 32]"
    assert lenet.ranges == {"batch": (1, 64)}
    assert lenet.output_names == ("logits",)
    assert lenet.labels == tuple("0123456789")
    assert lenet.preprocessing.height == 32
    assert lenet.parameters == 61_706
    assert len(lenet.checkpoint_sha256) == 64


def test_the_built_in_model_takes_a_range_and_an_input_of_the_user():
    source = load_source(SourceRequest("lenet5", ranges={"batch": (1, 8)}))
    assert source.ranges == {"batch": (1, 8)}
    fixed = load_source(
        SourceRequest("lenet5", None, (spec_from_text("image:float32[1,1,32,32]"),))
    )
    assert fixed.ranges == {}
    assert fixed.inputs[0].shape == (1, 1, 32, 32)


def test_weights_for_a_built_in_model_must_be_its_own(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "w.pt")
    text = refused(ExportError, "lenet5", "image:float32[batch,1,32,32]",
                   weights=tmp_path / "w.pt")  # fmt: skip
    assert "w.pt has no 'conv1.weight'" in text
    assert Path(tmp_path).name not in text
