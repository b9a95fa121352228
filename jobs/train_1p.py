#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Train a BiLSTM-CRF on one worker: select on dev, score on test.

examples:
  python jobs/train_1p.py --data-dir ResumeNER
  ray job submit --working-dir . -- python jobs/train_1p.py --data-dir /shared/ResumeNER --output-dir /shared/runs/1p
"""

import sys

from ray_bilstm.cli import train_job

if __name__ == "__main__":
    sys.exit(train_job(description=__doc__, num_workers=1))
