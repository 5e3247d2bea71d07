"""One file a storage system; the contract's asserts explain themselves as theirs do."""

import pytest

pytest.register_assert_rewrite("tests.formats.contract")
