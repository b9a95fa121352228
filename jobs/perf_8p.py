#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Measure the throughput of training on eight workers: warm-up, then measured steps; no scores, no model.

examples:
  python jobs/perf_8p.py --data-dir ResumeNER --amp-opt-level O2 --profile
  ray job submit --working-dir . -- python jobs/perf_8p.py --data-dir /shared/ResumeNER --output-dir /shared/runs/perf
"""

import sys

from ray_bilstm.cli import perf_job

if __name__ == "__main__":
    sys.exit(perf_job(description=__doc__, num_workers=8))
