"""Run the tests that need the real torch_npu: `python tests/torch_npu_on_stub/stage.py`, or `make test-npu`.

Makes a virtual environment of its own (torch does not import beside a torch_npu that has no CANN), installs the wheel,
builds the stub and runs pytest on it. Arguments, if any, are pytest's, instead of this stage's tests. Where gcc, nm or
the wheel is not to be had it says so and ends well.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENV = Path(os.environ.get("VENV_NPU", ROOT / ".venv-npu"))
PYTHON = VENV / "bin" / "python"
TORCH, TORCH_NPU = "torch==2.13.0", "torch_npu==2.13.0"
NEEDED = ["numpy", "pyyaml", "pyarrow", "safetensors", "hypothesis", "pytest", "pytest-timeout", "pytorch-crf==0.7.2"]
TESTS = [HERE, *(ROOT / "tests" / f"test_{name}.py" for name in ("device", "crf", "model"))]


def skip(why: str) -> int:
    print(f"SKIPPED: torch_npu on a stub of CANN: {why}")
    return 0


def install() -> str:
    """What pip could not install, if anything. torch first, so that torch_npu cannot choose another one."""
    done = VENV / "installed"
    torch = os.environ.get("TORCH", TORCH)
    if done.exists() and done.read_text() == f"{torch} {TORCH_NPU} {NEEDED}":
        return ""
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    for words in ([torch], NEEDED, ["--no-deps", TORCH_NPU]):
        if subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *words]).returncode:
            return " ".join(words)
    done.write_text(f"{torch} {TORCH_NPU} {NEEDED}")
    return ""


def main() -> int:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return skip("it is built for Linux on x86-64")
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            return skip(f"no {tool} on PATH")
    if missing := install():
        return skip(f"pip cannot install {missing}")
    stub = VENV / "cann"
    subprocess.run([PYTHON, HERE / "build_stub.py", stub], check=True)
    libraries = os.pathsep.join(filter(None, [str(stub), os.environ.get("LD_LIBRARY_PATH", "")]))
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": str(ROOT),
        "TORCH_NPU_ON_STUB": "1",
        "PYTHONWARNINGS": "ignore",  # torch_npu's own, while torch loads it; pytest's are errors as elsewhere
    }
    words = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--device", "npu", *(sys.argv[1:] or TESTS)]
    return subprocess.run(words, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
