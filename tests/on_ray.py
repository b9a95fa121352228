"""What the tests share that start Ray."""

import pytest

WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
