"""`python -m ray_bilstm doctor` as a user runs it, in processes of its own, with real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOUBLE = ROOT / "tests" / "simulated_npu"


def examine(*arguments: str, npus: int = 0, **variables: str) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and subject -> [state, text, state, text ...]."""
    resources = f"resources={{'NPU': {npus}}}, " if npus else ""
    code = (
        f"import ray, sys; ray.init('local', num_cpus=2, {resources}log_to_driver=False);"
        " from ray_bilstm.cli import main; sys.exit(main(['doctor', '--json', *sys.argv[1:]]))"
    )
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT), **variables}
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, cwd=ROOT, env=environment)
    found: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["subject"], []).extend((finding["state"], finding["text"]))
    return done.returncode, found


def test_a_cpu_can_train() -> None:
    code, found = examine("--device", "cpu")
    assert code == 0
    assert found["torch"][0] == found["ray"][0] == found["torch on cpu"][0] == "ok"
    assert found["gloo"] == ["ok", "2 workers reach one another"]
    assert found["cpu O0"][0] == "ok"
    assert "ok" in found["cpu O2"][::2], "bfloat16"
    assert found["training"] == ["ok", "on cpu at O0, its default: works"]


def test_without_torch_npu_an_npu_cannot() -> None:
    code, found = examine("--device", "npu")
    assert code == 1
    assert found["npu"] == ["FAILED", "torch_npu is not installed: pip install 'ray_bilstm[npu]'"]
    assert "training" not in found


@pytest.mark.parametrize(
    ("npus", "reach"),
    [(2, "2 workers reach one another"), pytest.param(1, "one NPU: no second worker", marks=pytest.mark.slow)],
)
def test_a_simulated_npu_can_train(npus: int, reach: str) -> None:
    path = os.pathsep.join([str(DOUBLE), str(ROOT)])
    code, found = examine("--device", "npu", npus=npus, PYTHONPATH=path)
    assert code == 0
    assert found["worker"] == ["ok", "npu:0, Ascend910B3 (simulated)"]
    assert reach in found["hccl and gloo" if npus == 2 else "hccl"][1]
    assert [found["npu O2"][0], found["npu O2"][1].partition(":")[0]] == ["ok", "float16, LSTM in float32"]
    assert found["CANN"][0] == "note"
    assert found["training"][0] == "ok"


@pytest.mark.slow
def test_what_a_worker_lacks_is_told() -> None:
    """The cluster has an NPU, and no torch_npu: nobody knows before a worker starts."""
    code, found = examine("--device", "npu", npus=1)
    assert code == 1
    assert found["npu"] == ["FAILED", "torch_npu is not installed: pip install 'ray_bilstm[npu]'"]
