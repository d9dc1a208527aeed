"""Settings of torch that inner loops run under."""

import pytest
import torch

from reptile_lib.fast.torch_settings import precise


def settings() -> tuple[object, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.get_float32_matmul_precision()
    return matmul, cudnn.allow_tf32, cudnn.enabled, cudnn.deterministic


def test_precision_is_set_and_put_back() -> None:
    before = settings()
    with precise("tf32"):
        assert settings() == ("high", True, *before[2:])
    assert settings() == before
    with precise("float32"):
        assert settings() == ("highest", False, *before[2:])
    with pytest.raises(ZeroDivisionError), precise("tf32"):
        _ = 1 / 0
    assert settings() == before
