"""A saved program is exported as it is: its inputs, its ranges, its truth in float64."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest, load_source
from exporter.truth import Truth
from runtime.errors import ExportError, InvalidInput, NotFound
from runtime.tensors import spec_from_text


class Net(nn.Module):
    """Casts, makes tensors inside and holds a constant: what ``.double()`` does not reach."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm = nn.Linear(4, 3), nn.LayerNorm(3)
        self.drop = nn.Dropout(0.5)
        self.share = torch.full((3,), 0.1)

    def forward(self, x, scale):
        y = self.norm(self.drop(self.fc(x)).float()) + torch.full((3,), 0.3)
        return {"logits": y * scale[:, None], "other": y + self.share.to(torch.float32)}


N = torch.export.Dim("n", min=1, max=32)


def save(path, module=None, *, args=None, kwargs=None, shapes=None):
    x, scale = torch.randn(3, 4), torch.randn(3)
    given = {"args": (x,), "kwargs": {"scale": scale}} if args is None else {
        "args": args, "kwargs": kwargs
    }  # fmt: skip
    shapes = {"x": {0: N}, "scale": {0: N}} if args is None else shapes
    program = torch.export.export(module or Net().eval(), **given, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("program") / "net.pt2")


def load(path, *inputs, weights=None, ranges=None):
    specs = tuple(spec_from_text(text) for text in inputs)
    return load_source(SourceRequest(str(path), weights, specs, ranges or {}))


def test_it_describes_its_own_inputs(saved):
    source = load(saved)
    assert [f"{spec.name}:{spec}" for spec in source.inputs] == [
        "x:float32 [batch, 4]", "scale:float32 [batch]",
    ]  # fmt: skip
    assert (source.name, source.factory, source.parameters) == ("net", "net.pt2", 21)
    assert source.ranges == {"batch": (1, 32)}
    assert source.module_class.endswith("test_program.Net")
    assert len(source.checkpoint_sha256) == 64


def test_it_answers_as_the_module_did_and_its_truth_is_of_float64(saved):
    source, draw = load(saved), np.random.RandomState(0)
    arrays = {"x": draw.standard_normal((5, 4)).astype(np.float32),
              "scale": draw.standard_normal(5).astype(np.float32)}  # fmt: skip
    with torch.no_grad():
        own = Net().eval()(**{name: torch.from_numpy(a) for name, a in arrays.items()})
        again = source.module(**{name: torch.from_numpy(a) for name, a in arrays.items()})
    assert torch.equal(own["logits"], again["logits"])
    truth = Truth(source.module)
    wide = truth(arrays)
    assert truth.lowered == ()
    same = Truth(Net().eval())(arrays)
    for name, value in same.items():
        np.testing.assert_allclose(wide[name], value, rtol=0, atol=1e-15)


def test_it_is_exported_and_proved_with_the_users_names_of_axes(saved, tmp_path):
    source = SourceRequest(
        str(saved), None, tuple(map(spec_from_text, ("x:float32[rows,4]", "scale:float32[rows]"))),
        {"rows": (1, 8)},
    )  # fmt: skip
    written = export_model(ExportRequest(source, tmp_path))
    manifest = written.manifest
    assert manifest.proof.verdict == "passed", manifest.proof.reason
    assert [f"{spec.name}:{spec}" for spec in (*manifest.inputs, *manifest.outputs)] == [
        "x:float32 [rows, 4]", "scale:float32 [rows]",
        "logits:float32 [rows, 3]", "other:float32 [rows, 3]",
    ]  # fmt: skip
    assert manifest.max_batch_size == 8
    assert {origin.module for origin in manifest.module_map.values()} >= {"fc", "norm"}


@pytest.mark.parametrize(
    ("inputs", "ranges", "text"),
    [
        (("x:float32[n,5]", "scale:float32[n]"), {}, "takes x:float32 .batch, 4., scale:float32"),
        (("x:float32[n,4]", "scale:float32[m]"), {}, "may give its free axes other names, no more"),
        (("x:float32[2,4]", "scale:float32[2]"), {}, "may give its free axes other names, no more"),
        (("y:float32[n,4]",), {}, "takes x:float32"),
        ((), {"batch": (1, 64)}, "--range batch=1:64 is not within net.pt2, where 'batch' is free"),
        ((), {"batch": (4, 4)}, "--range batch=4:4 is not within"),
    ],
)
def test_other_inputs_than_its_own_are_refused(saved, inputs, ranges, text):
    with pytest.raises(InvalidInput, match=text):
        load(saved, *inputs, ranges=ranges)


def test_weights_beside_it_are_refused(saved):
    with pytest.raises(InvalidInput, match=r"net.pt2 brings its own weights; leave out --weights"):
        load(saved, weights=saved)


def test_train_mode_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"was exported in train mode \(dropout in it"):
        load(save(tmp_path / "net.pt2", Net().train()))


def test_a_list_of_tensors_is_refused(tmp_path):
    class Sum(nn.Module):
        def forward(self, many):
            return many[0] + many[1]

    path = save(tmp_path / "net.pt2", Sum(), args=([torch.ones(2), torch.ones(2)],))
    with pytest.raises(ExportError, match="takes more than tensors"):
        load(path)


def test_a_file_that_is_no_program_is_one_line(saved, tmp_path):
    whole = saved.read_bytes()
    for content in (b"", b"not a program", whole[: len(whole) // 2]):
        (tmp_path / "net.pt2").write_bytes(content)
        with pytest.raises(ExportError, match=r"net.pt2 is no file of torch.export.save") as caught:
            load(tmp_path / "net.pt2")
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFound, match=r"gone.pt2 does not exist"):
        load(tmp_path / "gone.pt2")


def test_a_pickle_inside_that_would_run_code_is_refused_and_does_not_run(saved, tmp_path):
    """The example inputs of the archive are replaced by a pickle that writes a file."""

    class Malicious:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    buffer = io.BytesIO()
    torch.save(Malicious(), buffer)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "net.pt2", "w") as new:
        names = [item for item in old.namelist() if item.endswith(".pt")]
        assert names, old.namelist()
        for item in old.namelist():
            new.writestr(item, buffer.getvalue() if item in names else old.read(item))
    with pytest.raises(ExportError) as caught:
        load(tmp_path / "net.pt2")
    assert "would run code" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "ran").exists(), "the pickle would have run"
