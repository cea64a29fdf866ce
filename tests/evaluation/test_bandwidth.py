import pytest
import torch

from s2s.evaluation.bandwidth import last_level_cache_bytes, matmul_flops, read_bandwidth, torch_threads


def test_measurements_carry_their_conditions() -> None:
    read = read_bandwidth(threads=1, num_bytes=1 << 20, repeats=1)
    assert 0.01 < read["read_gb_per_s"] < 10_000
    assert (read["threads"], read["buffer_bytes"], read["cache_bytes"]) == (1, 1 << 20, last_level_cache_bytes())
    assert 0 < read["cpu_share"] < 1.5
    product = matmul_flops(torch.bfloat16, threads=1, size=64, repeats=1)
    assert product["gflop_per_s"] > 0
    assert (product["dtype"], product["size"]) == ("bfloat16", 64)


def test_threads_are_given_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="0"), torch_threads(0):
        pass
    with pytest.raises(ValueError, match="num_bytes"):
        read_bandwidth(num_bytes=0)
