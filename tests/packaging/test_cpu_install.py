"""``pip install '.[cpu]'`` into a fresh environment is enough to serve and to ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.index

SERVE = """
import sys
from runtime.cli import main
code = main(["serve", *sys.argv[1:]])
print("imported:", [name for name in ("torch", "onnx") if name in sys.modules])
sys.exit(code)
"""
NO_INDEX = (
    "Temporary failure in name resolution",
    "Failed to establish a new connection",
    "Network is unreachable",
)


def run(*argv: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(item) for item in argv],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def fresh(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the project and its extra ``cpu``."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    made = run(sys.executable, "-m", "venv", venv)
    assert made.returncode == 0, made.stdout + made.stderr
    programs = venv / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    done = run(*pip, ".[cpu]", cwd=project)
    if done.returncode and any(text in done.stderr + done.stdout for text in NO_INDEX):
        if os.environ.get("TWINPORT_REQUIRE_TOOLS"):
            pytest.fail("no package index can be reached")
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


def test_neither_torch_nor_onnx_can_be_imported(fresh):
    code = (
        "from importlib.util import find_spec;"
        "print([name for name in ('torch', 'onnx', 'torchvision', 'tritonclient', 'onnxruntime')"
        " if find_spec(name)])"
    )
    assert run(fresh / "python", "-I", "-c", code).stdout == "['onnxruntime']\n"


def test_a_server_answers_there_and_torch_and_onnx_stay_out(
    fresh, write_toy, repository, toys, tmp_path
):
    write_toy()
    x = toys["linear"].samples["x"][:3]
    np.save(tmp_path / "x.npy", x)
    server = subprocess.Popen(
        [fresh / "python", "-I", "-c", SERVE, repository, "--port", "0", "--state", tmp_path / "s"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[-1]
        said = iter(server.stdout.readline, "")
        assert any("1 of 1 models ready" in line for line in said)
        asked = run(
            fresh / "twinport", "infer", "linear", tmp_path / "x.npy", "--url", url, "--json"
        )
        server.send_signal(signal.SIGTERM)
        rest = server.stdout.read()
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert asked.returncode == 0, asked.stderr
    outputs = json.loads(asked.stdout)["answers"][0]["outputs"]
    expected = toys["linear"].compute({"x": x})["y"]
    np.testing.assert_allclose(outputs["y"]["data"], expected, rtol=1e-5, atol=1e-6)
    assert rest.endswith("imported: []\n")


def test_the_proof_is_run_again_there(fresh, write_toy, repository):
    write_toy()
    done = run(fresh / "twinport", "parity", repository / "linear")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        ["twinport", "export", "lenet5", "-o", "repository"],
        ["twinport", "train", "lenet5"],
        ["twinport", "inspect", "lenet5"],
        ["twinport", "demo"],
        ["export", "lenet5", "-o", "repository"],
        ["python", "-m", "exporter", "lenet5", "-o", "repository"],
    ],
    ids=" ".join,
)
def test_commands_that_need_torch_say_in_one_line_what_to_install(argv, fresh, tmp_path):
    program, *arguments = argv
    done = run(fresh / program, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'twinport[export,cpu]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["export", "inspect", "demo", "serve", "infer", "parity"])
def test_the_help_of_a_command_is_there_without_torch(name, fresh):
    done = run(fresh / "twinport", name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: twinport {name} ")
