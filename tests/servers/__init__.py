"""Real servers for the tests, and ones that fail on purpose; `tests/conftest.py` loads each file's fixtures."""

import pytest

# They import one another, and pytest would otherwise come too late to explain their asserts.
pytest.register_assert_rewrite("tests.servers.server", "tests.servers.faults")
