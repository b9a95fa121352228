"""For `make test-npu` only, which builds the stub and sets this variable: elsewhere torch_npu is not to be had."""

import os

collect_ignore_glob = [] if os.environ.get("TORCH_NPU_ON_STUB") else ["*.py"]

if not collect_ignore_glob:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch_npu's own, while it patches torch
        import cpu_kernels  # noqa: F401
