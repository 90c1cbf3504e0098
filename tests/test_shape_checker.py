import pytest
import torch
from jaxtyping import TypeCheckError

from rankmatch.agents import select_agents


def test_shapes_are_checked_while_tests_run_in_whatever_process_they_do():
    with pytest.raises(TypeCheckError, match="features"):
        select_agents(torch.zeros(2, 3, 4), 2, first=torch.tensor([0, 0]))
