"""Tests that run on a GPU: their marker, their device, and how they are tried out without one.

A test is marked ``gpu`` and asks for the fixture `gpu`, or for `each_device`, which runs it on the
CPU and on the GPU, or for `cuda` where it tests what nothing else has. VFN_GPU_TESTS=cpu runs the
first two on the CPU: nothing is learned of a GPU, but that the tests themselves work.
"""

import os
import re
from contextlib import nullcontext

import pytest
import torch

from vfn.model import float32_products

# Without it cuBLAS may add up in another order each time; it is read before the first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
REHEARSED = os.environ.get("VFN_GPU_TESTS") == "cpu"
_ASKS = re.compile(r"\b(gpu|each_device)\b")


def pytest_ignore_collect(collection_path, config):
    """With ``-m gpu`` read no other file: what those need may not be installed there."""
    if config.option.markexpr == "gpu" and collection_path.suffix == ".py":
        return None if _ASKS.search(collection_path.read_text(encoding="utf-8")) else True
    return None


def pytest_collection_modifyitems(items):
    """Warnings of CUDA's libraries are shown: nobody could see them ahead, as an error wants."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtest_setup(item):
    """Leave out what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not (torch.cuda.is_available() or REHEARSED):
        pytest.skip("needs a CUDA GPU, and this PyTorch sees none")


def tf32_flags():
    """Whether products of matrices, and convolutions, may have 10-bit mantissas."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(scope="session")
def gpu():
    """The name of the device for what is marked so: cuda, or cpu where it is only tried out."""
    return "cuda" if torch.cuda.is_available() and not REHEARSED else "cpu"


@pytest.fixture
def cuda(gpu):
    """The same for what CUDA alone has."""
    if gpu != "cuda":
        pytest.skip("of CUDA alone")
    return gpu


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def each_device(request):
    """The name of each device in turn."""
    return request.getfixturevalue("gpu") if request.param == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def exact_on_gpu(request):
    """On a GPU products have all the digits of float32, unless a test changes it."""
    on_gpu = request.node.get_closest_marker("gpu") is not None
    with float32_products(tf32=False) if on_gpu else nullcontext():
        yield


@pytest.fixture
def deterministic(request):
    """For tests that compare bits: on a GPU sums have one order only if torch is told so."""
    torch.use_deterministic_algorithms(request.node.get_closest_marker("gpu") is not None)
    yield
    torch.use_deterministic_algorithms(False)
