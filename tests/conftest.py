"""Its presence puts tests/ on the path, so that every test file shares `cases`."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers_in_any_order_of_the_tests():
    torch.manual_seed(0)
