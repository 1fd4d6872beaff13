import pytest

from pipelines.search.choice import standard_error


def test_the_standard_error_pools_the_spread_of_all_groups():
    assert standard_error([[1.0, 3.0], [10.0, 12.0]], 2) == pytest.approx(1.0)
    assert standard_error([[1.0], [5.0]], 1) == 0.0
