"""Pictures from a network: the same in any layout, and labels are looked at before any step."""

import json
from dataclasses import replace

import pytest
import torch

from tests.helpers.gpu import tf32_flags
from tests.helpers.small import SHAPE, small_config
from vfn.configs import TrainConfig, override
from vfn.data import Labels, to_uint8
from vfn.data.values import Values
from vfn.distributed import ALONE
from vfn.model import schedule_of
from vfn.ops import ddim_step, keyed_normal, sample, sampling_grid
from vfn.ops.solver_table import SOLVERS
from vfn.progress import Progress
from vfn.sampling import Trained, of_each, untrained
from vfn.sampling.draws import DrawingBar, Drawn, evaluations, joined
from vfn.streams import Stream

CPU = torch.device("cpu")


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde", "ancestral"])
def test_pictures_before_rounding_do_not_depend_on_the_batch(trained, sampler, monkeypatch):
    """To 1e-5, and bit for bit in batches of one size, whichever others are drawn."""
    monkeypatch.setattr("vfn.data.values.to_uint8", lambda images: images)

    def draw(batch, chosen):
        draws = trained.draws(64, seed=3, sampler=sampler, steps=3, guidance=1.0, batch=batch)
        return draws.all(chosen).images

    whole, indices = draw(64, None), torch.arange(64)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(draw(1, indices[:9]), whole[:9], rtol=0, atol=1e-5)
    sevens = draw(7, indices)
    torch.testing.assert_close(sevens, whole, rtol=0, atol=1e-5)
    backwards = torch.arange(63, -1, -1)
    assert torch.equal(draw(64, backwards)[backwards], whole)
    assert torch.equal(draw(7, indices[14:28]), sevens[14:28])


@pytest.mark.parametrize(
    ("tags", "labels", "message"),
    [
        (False, torch.tensor([1, 3]), "expected labels in 0..2, 0 for unconditional, got 3 at 1"),
        (True, torch.tensor([[0, 2]]), "expected 0 and 1 as tags, got 2 at 0, 1"),
        (True, torch.tensor([1, 2]), r"expected labels of shape \[N, 2\], got \(2,\)"),
    ],
)
def test_labels_that_the_network_does_not_know(tags, labels, message):
    shape = SHAPE._replace(legend=Labels(("a", "b"), tags))
    network = untrained(small_config(), shape)
    calls = []
    network.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        network.draws(len(labels), of_each(labels, Labels()))
    with pytest.raises(ValueError, match=message):
        network.denoiser(labels)
    assert calls == []


def test_what_was_drawn(trained):
    drawn = trained.draws(3, ["7", "3"], steps=2).all()
    assert drawn.images.shape == (3, 1, 8, 8)
    assert drawn.images.dtype == torch.uint8
    assert drawn.labels == ["7", "3", "7"]
    assert drawn.classes.tolist() == [8, 4, 8]
    assert drawn.nfe == 2
    for picture, image in zip(drawn.pil(), drawn.images, strict=True):
        assert picture.mode == "L"
        assert bytes(picture.tobytes()) == bytes(image.flatten().tolist())


def test_batches_are_the_whole(trained):
    draws = trained.draws(10, steps=2, batch=4)
    parts = list(draws.batches())
    assert [len(part.images) for part in parts] == [4, 4, 2]
    whole = draws.all()
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert sum((part.labels for part in parts), []) == whole.labels  # noqa: RUF017
    by_all = draws.by_all(ALONE)
    assert torch.equal(by_all.images, whole.images)
    assert by_all.labels == whole.labels
    assert torch.equal(by_all.classes, whole.classes)


def test_the_steps_can_be_watched(trained):
    seen = []
    draws = trained.draws(3, steps=4, batch=2)
    for _ in draws.batches(watch=lambda i, z, x0: seen.append((i, len(z), x0.shape == z.shape))):
        pass
    assert seen == [(i, size, True) for size in (2, 1) for i in range(4)]


@pytest.mark.parametrize(
    ("sampler", "shares", "asked"),
    [("ddim", 1, 8), ("ddim", 2, 8), ("heun", 2, 8), ("adaptive", 2, 2)],
)
def test_all_processes_are_asked_as_often(trained, sampler, shares, asked):
    """Before each step, but before each batch where every process has its own steps."""
    calls, batches = [], [torch.arange(2), torch.arange(2, 3)]
    draws = trained.draws(3, sampler=sampler, steps=4)
    with DrawingBar(draws, batches, shares, check=lambda: calls.append(1)) as bar:
        for batch in batches:
            bar.drawn(batch)
    assert len(calls) == asked


def test_a_process_alone_is_asked_in_each_step_of_any_solver(trained):
    calls, draws = [], trained.draws(3, sampler="adaptive", steps=4)
    drawn = draws.by_all(ALONE, lambda: calls.append(1))
    assert len(calls) == (drawn.nfe - 1) // 3 > 1


def test_the_record_names_all_that_pictures_depend_on(run, trained):
    record = trained.draws(4, ["3"], seed=5, steps=2).record()
    assert json.loads(json.dumps(record)) == record
    assert "sample_batch" not in record
    assert (record["seed"], record["num"], record["labels"], record["step"]) == (5, 4, ["3"], 3)
    assert (record["parameters"], record["precision"]) == ("ema", "fp32")
    import vfn

    others = [
        trained.draws(4, ["3"], seed=5, steps=2, batch=1),
        trained.draws(4, ["3"], seed=6, steps=2),
        trained.draws(4, ["3"], seed=5, steps=3),
        trained.draws(4, ["4"], seed=5, steps=2),
        vfn.load(run, "cpu", ema=False).draws(4, ["3"], seed=5, steps=2),
        vfn.load(run, "cpu", precision="bf16").draws(4, ["3"], seed=5, steps=2),
    ]
    assert [other.record() == record for other in others] == [True] + [False] * 5


def test_colour_pictures_of_an_unconditional_network():
    shape = SHAPE._replace(channels=3, height=4, legend=Labels())
    drawn = untrained(small_config(), shape).sample(2, steps=2, guidance=0)
    assert drawn.labels == []
    assert drawn.images.shape == (2, 3, 4, 8)
    assert [(picture.mode, picture.size) for picture in drawn.pil()] == [("RGB", (8, 4))] * 2


def test_pictures_that_are_not_finite_are_told_once(trained, capsys):
    params = dict(trained.params)
    name = next(iter(params))
    params[name] = params[name] * float("nan")
    broken = replace(trained, params=params)
    drawn = broken.sample(6, steps=2, batch=2)
    assert drawn.not_finite == 6
    assert not drawn.finite.any()
    assert capsys.readouterr().err.count("6 of 6 pictures are not finite") == 1
    assert sum(part.not_finite for part in broken.sample_batches(6, steps=2, batch=2)) == 6
    assert capsys.readouterr().err.count("6 of 6 pictures are not finite") == 1
    assert broken.draws(6, steps=2).by_all(ALONE).not_finite == 6
    fine = trained.sample(6, steps=2)
    assert (fine.not_finite, fine.fault) == (0, "")
    assert fine.finite.tolist() == [True] * 6


def test_only_pictures_that_are_not_finite_are_counted(trained, capsys, monkeypatch):
    """Before rounding: infinite values would be white, others black."""
    real = trained.draws(5, steps=2)
    whole = real._sampler

    def spoiled(*args, **options):
        found = whole(*args, **options)
        x0 = found.x0.clone()
        x0[1, 0, 2, 3], x0[3, 0, 0, 0] = float("inf"), float("nan")
        return found._replace(x0=x0)

    monkeypatch.setitem(real.__dict__, "_sampler", spoiled)
    drawn = real.all()
    assert drawn.finite.tolist() == [True, False, True, False, True]
    assert "2 of 5 pictures are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", [*SOLVERS])
def test_evaluations_are_known_before(trained, sampler):
    for steps in (1, 2, 3, 7):
        draws = trained.draws(2, sampler=sampler, steps=steps, guidance=0.0)
        found = draws.all().nfe
        assert evaluations(draws.settings)[0] == (0 if sampler == "adaptive" else found)


def test_the_bar_moves_with_every_evaluation(trained, monkeypatch):
    shown = []
    monkeypatch.setattr(Progress, "show", lambda self, done: shown.append((done, self._total)))
    trained.draws(5, sampler="heun", steps=5, batch=3).all()
    assert shown == [(n, 16) for n in (0, 2, 4, 6, 8, 8, 8, 10, 12, 14, 16, 16)]


def test_the_grid_is_on_the_host(trained):
    """Where it is looked at without a wait for the device, and made once for all batches."""
    draws = replace(trained, device=torch.device("meta")).draws(4, steps=3)
    assert draws._grid.device == torch.device("cpu")
    assert draws._grid is draws._grid


@pytest.mark.parametrize("wanted", [False, True])
def test_products_on_a_gpu_are_as_the_run_has_them(wanted):
    """While the network is asked, by whoever, and as they were before and after."""
    trained = untrained(replace(small_config(), train=TrainConfig(tf32=wanted)), SHAPE)
    before, seen = tf32_flags(), []
    trained.model.register_forward_hook(lambda *_: seen.append(tf32_flags()))
    trained.sample(2, steps=1)
    trained.denoiser()(torch.zeros(2, *SHAPE.size), torch.zeros(2))
    assert seen == [(wanted, wanted)] * 2
    assert tf32_flags() == before


class Says(torch.nn.Module):
    """A network that says the same x0 of everything."""

    def __init__(self, x0):
        super().__init__()
        self.x0 = torch.nn.Parameter(torch.tensor(x0))

    def forward(self, z, _t, _labels=None):
        return self.x0 * torch.ones_like(z)


@pytest.mark.parametrize(("bounded", "drawn"), [(True, 1.0), (False, 3.0)])
def test_numbers_of_a_range_stay_in_it_and_standardised_ones_are_not_cut(bounded, drawn):
    config = override(small_config(), {"model_out_type": "x0"})
    shape = SHAPE._replace(values=Values("float32", (0.0,), (1.0,), bounded), legend=Labels())
    network = Says(3.0)
    trained = Trained(network, dict(network.named_parameters()), config, shape, CPU)
    assert trained.sample(2, steps=2, sampler="ddim", guidance=0).images.unique().tolist() == [
        drawn
    ]


def test_rescaled_guidance_reaches_the_network(trained):
    """As of the denoiser with that rescaling."""
    grid = sampling_grid("time", schedule_of(trained.config.diffusion), 3)
    start = keyed_normal(0, Stream.SAMPLE, torch.arange(2), (1, 8, 8))
    denoise = trained.denoiser(torch.tensor([4, 8]), 3.0, rescale=0.7)
    expected = to_uint8(sample(denoise, start, grid, ddim_step).x0)
    settings = {"labels": ["3", "7"], "sampler": "ddim", "steps": 3, "guidance": 3.0}
    assert torch.equal(trained.sample(2, **settings, guidance_rescale=0.7).images, expected)
    assert not torch.equal(trained.sample(2, **settings).images, expected)


def test_evaluations_of_several_batches_are_the_most_of_any():
    part = Drawn(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), ["7"], torch.tensor([8]), nfe=4)
    parts = [part, part._replace(nfe=9, weak_nfe=9), part]
    assert (joined(parts).nfe, joined(parts).weak_nfe) == (9, 9)
