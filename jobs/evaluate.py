#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Score a trained model on labelled sentences.

examples:
  python jobs/evaluate.py runs/NAME/best ResumeNER --split test
  ray job submit --working-dir . -- python jobs/evaluate.py /shared/runs/8p/best /shared/ResumeNER
"""

import sys

from ray_bilstm.cli import evaluate_job

if __name__ == "__main__":
    sys.exit(evaluate_job(description=__doc__))
