"""What a user's own program gets, from another folder and in a process that has loaded nothing yet."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def answer(program, *arguments, told, folder, path=ROOT):
    """What `program`, which gets `told` as JSON on its standard input, prints as JSON. It runs in `folder`; of the
    folders that hold modules, it knows `path`."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
