#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Train a BiLSTM-CRF on eight workers: select on dev, score on test. The same problem as on one, dealt to eight.

examples:
  python jobs/train_8p.py --device cpu --data-dir ResumeNER
  ray job submit --working-dir . -- python jobs/train_8p.py --data-dir /shared/ResumeNER --output-dir /shared/runs/8p
"""

import sys

from ray_bilstm.cli import train_job

if __name__ == "__main__":
    sys.exit(train_job(description=__doc__, num_workers=8))
