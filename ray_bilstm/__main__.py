# PYTHON_ARGCOMPLETE_OK
"""python -m ray_bilstm COMMAND"""

import sys

from ray_bilstm.cli import main

if __name__ == "__main__":
    sys.exit(main())
