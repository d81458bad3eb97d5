"""Keyed draws: the published Philox vectors, distributions, independence of layout."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vfn.ops import epoch_permutation, keyed_bernoulli, keyed_normal, keyed_uniform
from vfn.ops.random import _philox

DRAWS = {"uniform": keyed_uniform, "normal": keyed_normal}
seeds, streams = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)


# Random123 (Salmon et al. 2011), kat_vectors, philox4x32 10: counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_matches_the_published_vectors(counter, key, expected):
    words = _philox(tuple(torch.tensor(word) for word in counter), key)
    assert tuple(word.item() for word in words) == expected


def test_uniform_is_made_of_the_published_bits():
    """Pins how index, stream and seed fill counter and key: no release may move a number."""
    bits = [(0x6627E8D5 << 20) + (0xE169C58D >> 12), (0xBC57AC4C << 20) + (0x9B00DBD8 >> 12)]
    got = keyed_uniform(0, 0, torch.tensor(0), (2,), torch.float64)
    assert got.tolist() == [(word + 0.5) / 2**52 for word in bits]


def test_normals_are_made_of_the_published_bits():
    """Box-Muller of the same four words, 32 bits to a uniform."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    u = [(word + 0.5) / 2**32 for word in words]
    expected = []
    for first, second in (u[:2], u[2:]):
        radius, angle = math.sqrt(-2 * math.log(first)), 2 * math.pi * second
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    got = keyed_normal(0, 0, torch.tensor(0), (4,), torch.float64)
    assert got.tolist() == pytest.approx(expected, rel=1e-14)


def test_permutation_sorts_the_published_bits():
    """Item i of an epoch has the counter (0, stream, i, epoch)."""

    def bits(item):
        first, second, *_ = _philox(tuple(map(torch.tensor, (0, 5, item, 3))), (7, 0))
        return first.item(), second.item()

    assert epoch_permutation(7, 3, 40, stream=5).tolist() == sorted(range(40), key=bits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distributions(dtype):
    """Kolmogorov-Smirnov over 40,000 draws of fixed keys: an error of 1 % in it fails."""
    index = torch.arange(400)
    uniform = keyed_uniform(1, 2, index, (100,), dtype).flatten().double().numpy()
    normal = keyed_normal(1, 3, index, (100,), dtype).flatten().double().numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(normal, "norm").pvalue > 0.01


def test_neighbouring_keys_are_uncorrelated():
    """Within an index, and over indices, streams and seeds: four deviations of 1/sqrt(n)."""
    index = torch.arange(2000)
    base = keyed_normal(0, 0, index, (2,), torch.float64)
    columns = [
        base[:, 0],
        base[:, 1],
        keyed_normal(0, 0, index + 1, (), torch.float64),
        keyed_normal(0, 1, index, (), torch.float64),
        keyed_normal(1, 0, index, (), torch.float64),
        keyed_normal(1 << 32, 0, index, (), torch.float64),
        keyed_normal(0, 0, index + (1 << 32), (), torch.float64),
    ]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlation.abs().max() < 4 / 2000**0.5


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(seed=seeds, stream=streams, order=st.permutations(range(6)), count=st.integers(1, 6))
def test_draws_do_not_depend_on_the_batch(draw, seed, stream, order, count):
    """Any subset in any order, shape and position of the same indices has the same numbers."""
    index = torch.tensor([0, 1, 7, 2**31, 2**40, 2**62])
    whole = draw(seed, stream, index, (3, 5))
    chosen = torch.tensor(order)[:count]
    assert torch.equal(draw(seed, stream, index[chosen], (3, 5)), whole[chosen])
    reshaped = draw(seed, stream, index.reshape(2, 1, 3), (3, 5))
    assert torch.equal(reshaped, whole.reshape(2, 1, 3, 3, 5))
    assert torch.equal(draw(seed, stream, index[0], (3, 5)), whole[0])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_longer_draw_begins_with_the_shorter(draw):
    index = torch.arange(4)
    assert torch.equal(draw(0, 0, index, (6,)), draw(0, 0, index, (16,))[:, :6])


@given(
    keys=st.lists(
        st.tuples(seeds, streams, st.integers(0, 2**62)), min_size=2, max_size=2, unique=True
    )
)
def test_different_keys_give_different_numbers(keys):
    first, second = (
        keyed_uniform(seed, stream, torch.tensor(index), (2,), torch.float64)
        for seed, stream, index in keys
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_is_inside_the_open_interval(dtype):
    u = keyed_uniform(0, 0, torch.arange(2000), (50,), dtype)
    assert u.dtype == dtype
    assert 0 < u.min() < 0.01
    assert 0.99 < u.max() < 1


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)])
def test_shape_and_dtype_are_those_asked_for(shape):
    for draw in DRAWS.values():
        assert draw(0, 0, torch.zeros(2, 0, dtype=torch.int32), shape).shape == (2, 0, *shape)
        got = draw(0, 0, torch.zeros(4, dtype=torch.int32), shape, torch.bfloat16)
        assert got.shape == (4, *shape)
        assert got.dtype == torch.bfloat16


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_bernoulli_has_its_probability(p):
    """Within four standard deviations over 20,000 draws; exactly for 0 and 1."""
    share = keyed_bernoulli(0, 5, torch.arange(20_000), p).double().mean().item()
    assert abs(share - p) <= 4 * (p * (1 - p) / 20_000) ** 0.5


@given(seed=seeds, epoch=st.integers(0, 2**30), n=st.integers(0, 300))
def test_permutation_has_every_item_once(seed, epoch, n):
    assert epoch_permutation(seed, epoch, n).sort().values.tolist() == list(range(n))


def test_permutations_differ_by_seed_epoch_and_stream():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    orders = {tuple(epoch_permutation(s, e, 50, stream).tolist()) for s, e, stream in keys}
    assert len(orders) == 4
    assert tuple(range(50)) not in orders


def test_permutation_puts_every_item_everywhere():
    """Chi-square of (item, position) over 2,000 epochs of 6 items."""
    orders = torch.stack([epoch_permutation(0, epoch, 6) for epoch in range(2000)])
    counts = torch.stack([torch.bincount(column, minlength=6) for column in orders.T])
    assert stats.chi2.sf(((counts - 2000 / 6) ** 2 / (2000 / 6)).sum().item(), 25) > 0.01


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(
    ("seed", "stream", "index", "error", "message"),
    [
        (0, 0, torch.tensor([1.0]), TypeError, "index of an integer dtype, got torch.float32"),
        (0, 0, torch.tensor([True]), TypeError, "index of an integer dtype, got torch.bool"),
        (0, 0, [1, 2], TypeError, "expected index to be a tensor, got list; torch.as_tensor makes"),
        (0, -1, torch.tensor([1]), ValueError, r"stream in 0..2\^32-1, got -1"),
        (0, 2**32, torch.tensor([1]), ValueError, r"stream in 0..2\^32-1, got 4294967296"),
        (-1, 0, torch.tensor([1]), ValueError, r"seed in 0..2\^64-1, got -1"),
        (2**64, 0, torch.tensor([1]), ValueError, r"seed in 0..2\^64-1, got 18446744073709551616"),
    ],
)
def test_keys_out_of_range_are_refused(draw, seed, stream, index, error, message):
    with pytest.raises(error, match=message):
        draw(seed, stream, index)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64, torch.tensor])
def test_whole_numbers_of_any_kind_are_keys(draw, kind):
    index = torch.arange(3)
    assert torch.equal(draw(kind(5), kind(7), index), draw(5, 7, index))


@pytest.mark.parametrize("key", [(1.0, 0), (0, "1")])
def test_keys_that_are_no_whole_numbers_are_refused(key):
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        keyed_uniform(*key, torch.arange(3))


def test_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\], got 1.5"):
        keyed_bernoulli(0, 0, torch.arange(2), 1.5)


@pytest.mark.gpu
def test_draws_on_a_gpu_are_those_of_the_cpu(gpu):
    """Bits are; the logarithm and the cosine of normal draws may differ in the last place."""
    index = torch.tensor([0, 1, 7, 2**31, 2**40, 2**62])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        here, there = (keyed_uniform(3, 1, index.to(at), (40,), dtype) for at in ("cpu", gpu))
        assert torch.equal(there.cpu(), here)
    here, there = (keyed_normal(3, 1, index.to(at), (40,), torch.float64) for at in ("cpu", gpu))
    assert there.device.type == gpu
    torch.testing.assert_close(there.cpu(), here, rtol=1e-13, atol=1e-13)
