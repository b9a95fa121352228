#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Tag many files over a cluster: JSON lines in parts, which a killed job goes on with when the command is repeated.

examples:
  python jobs/predict.py runs/NAME/best texts/ more.jsonl --output-dir tagged
  ray job submit --working-dir . -- python jobs/predict.py /shared/best /shared/texts --output-dir /shared/tagged
"""

import sys

from ray_bilstm.cli import bulk_job

if __name__ == "__main__":
    sys.exit(bulk_job(description=__doc__))
