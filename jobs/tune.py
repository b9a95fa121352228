#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Search over seeds and batch sizes, or any other settings: a run directory a trial, and a study of all of them.

examples:
  python jobs/tune.py --data-dir ResumeNER --seeds 1,2,3,4,5 --batch-sizes 16,32,64,128
  python jobs/tune.py --data-dir ResumeNER --search random --samples 20 --set learning_rate=log:1e-3..1e-2
  ray job submit --working-dir . -- python jobs/tune.py --data-dir /shared/ResumeNER --output-dir /shared/runs/search
"""

import sys

from ray_bilstm.cli import tune_job

if __name__ == "__main__":
    sys.exit(tune_job(description=__doc__))
