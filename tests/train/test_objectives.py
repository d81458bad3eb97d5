"""Objectives of few-step networks in the loop: layouts, processes, resuming, the log, mistakes."""

import math
import signal
from dataclasses import replace

import pytest
import torch

from tests.helpers.processes import differing, last_step, logged, losses, wait_until
from vfn import load as load_model
from vfn.configs import DiffusionConfig, ModelConfig, load, loads, override
from vfn.data import load_dataset
from vfn.evaluation import held_out
from vfn.objective import Batch, batch_loss, path_loss
from vfn.ops import logsnr_schedule
from vfn.runs import RunFiles
from vfn.train import loop, train
from vfn.train.batches import make_batch, training_times

MEAN_FLOW = ["--objective", "mean_flow", "--second-time", "true", "--time-embedding", "smooth"]
CONSISTENCY = ["--objective", "consistency", "--time-embedding", "smooth"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "figure"),
    [
        ([*MEAN_FLOW, "--objective-option", "power=0"], "derivative_rms"),
        (CONSISTENCY, "tangent_rms"),
    ],
    ids=["mean_flow", "consistency"],
)
def test_processes_and_micro_batches_are_only_a_layout(forks, tmp_path, words, figure):
    """Gradients come together across processes: the forward pass goes through what wraps the net.

    The losses of later steps show it: without that each process would train on its own part. Of
    figures that are roots their squares come together.
    """
    runs, figures = {}, {}
    for processes, accumulate in ((1, 1), (2, 1), (2, 2)):
        out = tmp_path / f"{processes}-{accumulate}"
        options = ["--steps", 6, "--accumulate", accumulate, "--preview-every", 0, "--lr", 0.01,
                   "--warmup", 0, *words]  # fmt: skip
        forks.train(out, *options, processes=processes)
        forks.end()
        runs[processes, accumulate] = losses(out)
        figures[processes, accumulate] = [e[figure] for e in logged(out) if figure in e]
    whole = runs.pop((1, 1))
    for found in runs.values():
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        assert found == pytest.approx(whole, rel=1e-4)
    for found in figures.values():
        assert found == pytest.approx(figures[1, 1], rel=1e-4)
    assert whole[6] != pytest.approx(whole[1], rel=1e-3)


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_result(forks, tmp_path):
    arguments = ["--steps", 30, "--checkpoint-every", 7, "--preview-every", 0, *MEAN_FLOW]
    forks.train(tmp_path / "whole", *arguments)
    forks.end()
    killed = tmp_path / "killed"
    forks.train(killed, "--resume", *arguments)
    wait_until(lambda: last_step(killed) > 10, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    forks.train(killed, "--resume", *arguments)
    forks.end()
    assert differing(tmp_path / "whole", killed) == []
    assert losses(tmp_path / "whole") == losses(killed)
    assert {"derivative_rms", "square_error"} <= logged(killed)[-1].keys()


def few(config, objective, **more):
    model = replace(config.model, time_embedding="smooth", second_time=objective == "mean_flow")
    config = replace(config, model=model)
    return override(config, {"objective": objective, "preview_every": 0, **more})


@pytest.mark.parametrize(
    ("objective", "figure"),
    [("consistency", "tangent_rms"), ("ect", "stage"), ("mean_flow", "derivative_rms")],
)
def test_figures_are_logged_and_the_weight_is_learned(config, tmp_path, objective, figure):
    seen = []
    settings = few(config, objective, learned_weight=True, steps=3, sampler="ddim")
    train(settings, tmp_path, callbacks=[seen.append], device="cpu")
    assert [entry[figure] for entry in seen if figure in entry]
    assert all(math.isfinite(entry[figure]) for entry in seen)
    assert all("uncertainty_by_logsnr" in entry for entry in seen)


@pytest.mark.slow
def test_pairs_that_have_closed_in_train_on(config, tmp_path, capsys):
    """Far beyond the last stage, of which a line tells before the first step."""
    seen = []
    settings = few(config, "ect", steps=80, objective_options={"stage_updates": 1}, log_every=20)
    train(settings, tmp_path, callbacks=[seen.append], device="cpu")
    told = "pairs close in until update 18 of 80, and stay at stage 19 from then on"
    assert capsys.readouterr().err.count(told) == 1
    assert [entry["stage"] for entry in seen if "stage" in entry][-1] == 19
    assert [entry["skipped"] for entry in seen if "skipped" in entry] == [0] * 4
    assert all(entry["loss"] > 0 for entry in seen if "loss" in entry)
    few_steps = few(config, "ect", steps=17, objective_options={"stage_updates": 1})
    train(few_steps, tmp_path / "few", device="cpu")
    assert "close in" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_mean_flow_is_sampled_by_its_mean_velocity(config, tmp_path):
    settings = few(config, "mean_flow", steps=2, lr=0.1)
    settings = override(settings, {"sampler": "mean_flow", "sample_timesteps": 1})
    train(settings, tmp_path, device="cpu")
    trained = load_model(tmp_path, "cpu")
    one, four, plain = (
        trained.sample(4, sampler=sampler, steps=steps, guidance=0).images.float()
        for sampler, steps in (("mean_flow", 1), ("mean_flow", 4), ("ddim", 4))
    )
    assert not torch.equal(one, four)
    assert not torch.equal(four, plain)


def test_held_out_losses_are_those_of_the_objective(config, tmp_path):
    """And the same in every evaluation."""
    seen = []
    settings = few(config, "mean_flow", steps=2, lr=0.0, preview_every=1)
    train(settings, tmp_path, callbacks=[seen.append], device="cpu")
    held = [entry["held_out_loss"] for entry in seen if "held_out_loss" in entry]
    assert len(held) == 2
    assert held[0] == held[1]
    assert 0.3 < held[0] < 3  # v of a network that says 0: 1 for data of unit size


def test_both_times_of_a_batch(digits_batch):
    batch = digits_batch(second_time=True)
    assert (batch.r <= batch.t).all()
    assert batch.r.unique().numel() == batch.t.unique().numel() == 64
    assert batch.update == 3
    plain = digits_batch(second_time=False)
    assert plain.r is None
    times = torch.stack([batch.t, batch.r])
    assert all(t in times for t in plain.t)


def spans_a_step(network, batch, diffusion):
    """An objective of one's own that asks for both times."""
    assert (batch.r <= batch.t).all()
    return batch_loss(network, batch._replace(r=None), diffusion)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("objective", ["diffusion", "ect"])
def test_who_asks_for_no_second_time_learns_at_the_times_of_the_density(
    config, tmp_path, monkeypatch, objective, second
):
    """A network that takes one learns at the same times as one that does not."""
    seen = {"make_batch": [], "held_out_loss": []}
    batches, held = loop.make_batch, held_out.held_out_loss

    def made(*args):
        seen["make_batch"].append(batches(*args))
        return seen["make_batch"][-1]

    def judged(network, given, diffusion, learn):
        given = list(given)
        seen["held_out_loss"].extend(given)
        return held(network, given, diffusion, learn)

    monkeypatch.setattr(loop, "make_batch", made)
    monkeypatch.setattr(held_out, "held_out_loss", judged)
    given = {"second_time": second, "steps": 2, "preview_every": 2, "learned_weight": False}
    settings = override(few(config, objective), {**given, "sampler": "ddim"})
    train(settings, tmp_path, device="cpu")
    keys = torch.arange(settings.train.batch_size)
    wanted = training_times(settings, keys).t
    assert torch.equal(seen["make_batch"][0].t, wanted)
    held_t = torch.cat([batch.t for batch in seen["held_out_loss"]])
    assert held_t.mean().item() == pytest.approx(0.5, abs=0.03)  # of the later of two 2/3
    assert all(batch.r is None for several in seen.values() for batch in several)


def test_an_objective_of_ones_own_may_ask_for_both_times(config, tmp_path):
    settings = few(config, "diffusion", steps=2, preview_every=2, second_time=True)
    train(settings, tmp_path, objective=spans_a_step, device="cpu")
    assert "held_out_loss" in RunFiles(tmp_path).log.read_text()


EVEN = [{"time_density": name} for name in ("uniform", "stratified", "low_discrepancy")]
UNEVEN = [{"time_density": "importance", "time_options": {"weights": (1.0, 5.0)}}]


@pytest.mark.parametrize("density", EVEN + UNEVEN, ids=lambda density: density["time_density"])
def test_two_times_are_as_far_apart_as_two_uniform_draws(digits_batch, density):
    """The later has the mean 2/3, the earlier 1/3; of uneven densities by the weights of the loss.

    Five standard errors of 4,096 draws: 0.0037 of a uniform draw, below 0.011 with weights.
    """
    batches = [digits_batch(True, step, **density) for step in range(64)]
    t, r = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("t", "r"))
    weight = 1.0 if density in EVEN else torch.cat([batch.weight for batch in batches])
    tolerance = 0.019 if density in EVEN else 0.055
    assert (weight * t).mean().item() == pytest.approx(2 / 3, abs=tolerance)
    assert (weight * r).mean().item() == pytest.approx(1 / 3, abs=tolerance)
    if density in EVEN:
        assert (t - r).max() > 0.9
        lengths = digits_batch(True, **density)
        assert (lengths.t - lengths.r).unique().numel() == 64


CONDITIONS = [
    {"conditional": False, "condition": "downscale:4"},
    {"condition": "downscale:4"},
    {"conditional": True, "augment": 0.5},
]


@pytest.mark.parametrize("settings", CONDITIONS, ids=["pictures", "both", "augmented"])
@pytest.mark.parametrize("led", [{"objective_options": {"guidance": 1.0}},
                                 {"guidance_range": (0.0, 2.0)}], ids=["one", "range"])  # fmt: skip
def test_guided_paths_under_any_condition(config, tmp_path, settings, led):
    """With held-out losses on the way."""
    given = {"steps": 2, "preview_every": 1, **settings, **led}
    seen = []
    train(few(config, "mean_flow", **given), tmp_path, callbacks=[seen.append], device="cpu")
    assert sum("held_out_loss" in entry for entry in seen) == 2


class Told(torch.nn.Module):
    """Says of each picture what it is told of it, and keeps that."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, z, t, y=None, **more):
        del t
        self.calls.append({"labels": y, **more})
        return 0.1 * z


def test_paths_lead_away_from_no_condition_of_the_same_augmentation():
    draw = torch.Generator().manual_seed(0)
    x0, noise, image = torch.randn(3, 2, 1, 4, 4, generator=draw)
    given = {"vector": torch.ones(2, 3), "image": image, "augment": torch.ones(2, 9)}
    times = {"t": torch.full((2,), 0.6), "r": torch.full((2,), 0.3), "u": torch.zeros(2)}
    diffusion = DiffusionConfig(objective="mean_flow", objective_options={"guidance": 1.0})
    for labels in (None, torch.tensor([1, 2])):
        network = Told()
        path_loss(network, Batch(x0, labels, noise=noise, **times, **given), diffusion)
        away = network.calls[0]
        assert away["labels"] is None if labels is None else not away["labels"].any()
        assert not away["vector"].any()
        assert not away["image"].any()
        assert torch.equal(away["augment"], given["augment"])
        assert all(call["vector"].all() for call in network.calls[1:])


def gaussian_v(z, t, y=None, w=None, *, r=None, vector=None, image=None):
    """v of normal data of standard deviation 0.5, whatever the condition."""
    del y, w, r, vector, image
    logsnr = logsnr_schedule("cosine").logsnr(t).view(-1, 1, 1, 1)
    signal, noise = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
    return z * 0.75 * signal * noise / (0.25 * signal**2 + noise**2)


@pytest.mark.parametrize("known", ["labels", "tags", "vector", "image"])
@pytest.mark.parametrize("as_input", [False, True])
def test_pictures_without_a_condition_are_not_led(known, as_input):
    """Their loss, of the true velocity, is as without guidance; else its mean is (1 + w)^2 as much.

    The variance of v given z is s^2 / D, D that of z.
    """
    draw, count = torch.Generator().manual_seed(0), 4000
    x0, noise = torch.randn(2, count, 1, 1, 1, dtype=torch.float64, generator=draw)
    x0, half = 0.5 * x0, torch.arange(count) % 2
    value = {
        "labels": half,
        "tags": half[:, None] * torch.tensor([0, 1]),
        "vector": half[:, None] * torch.tensor([-0.5, 0.0, 1.0]),
        "image": half.view(-1, 1, 1, 1) * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1),
    }[known]
    conditions = {"labels" if known == "tags" else known: value}
    t = torch.full((count,), 0.5, dtype=torch.float64)
    batch = Batch(**{"x0": x0, "labels": None, "t": t, "noise": noise, "r": t,
                     "u": torch.zeros(count), **conditions})  # fmt: skip

    def loss(weight):
        weights = torch.full((count,), weight)
        led = batch._replace(guidance=weights) if as_input else batch
        options = {"power": 0.0, **({} if as_input else {"guidance": weight})}
        diffusion = DiffusionConfig(objective="mean_flow", objective_options=options)
        return path_loss(gaussian_v, led, diffusion).loss

    plain, led = loss(0.0), loss(4.0)
    assert plain.mean().item() == pytest.approx(0.25 / 0.625, rel=0.1)  # four standard errors
    assert torch.equal(led[half == 0], plain[half == 0])
    torch.testing.assert_close(led[half == 1], 25 * plain[half == 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditional": False}, "need labels, or other conditions, .*, and there are none; leave"),
        ({"p_uncond": 0.0}, "need p_uncond above 0 and below 1, got 0; leave out"),
        ({"p_uncond": 1.0}, "need p_uncond above 0 and below 1, got 1; leave out"),
    ],
)
@pytest.mark.parametrize(
    ("led", "name"),
    [
        ({"objective_options": {"guidance": 1.0}}, "--objective-option guidance$"),
        ({"guidance_range": (0.0, 2.0)}, "guidance_range$"),
    ],
)
def test_guided_paths_away_from_nothing_are_refused(
    config, tmp_path, settings, message, led, name, monkeypatch
):
    monkeypatch.setattr("vfn.train.session.build_model", None)  # nothing is built before
    with pytest.raises(ValueError, match=f"guided paths of mean_flow {message}.* {name}"):
        train(few(config, "mean_flow", **settings, **led), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_network_that_an_objective_cannot_differentiate_is_refused(config, tmp_path):
    """Of other networks than the UNet the settings are options, and seen when it is built."""
    sizes = {"patch_size": 4, "width": 32, "depth": 1, "num_heads": 2}
    model = ModelConfig(network="transformer", options=sizes)
    settings = override(replace(config, model=model), {"objective": "mean_flow"})
    lacking = "second_time true with objective mean_flow; expected time_embedding smooth with"
    with pytest.raises(ValueError, match=f"network transformer: expected {lacking}.*sinusoidal"):
        train(settings, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_second_time_does_not_depend_on_the_layout(digits_batch):
    whole = digits_batch(True, time_density="stratified")
    part = digits_batch(True, rows=slice(1, None, 3), time_density="stratified")
    assert torch.equal(part.t, whole.t[1::3])
    assert torch.equal(part.r, whole.r[1::3])


@pytest.fixture
def digits_batch(config):
    dataset = load_dataset(config.data)

    def make(second_time, step=3, rows=slice(None), **more):
        settings = override(config, {"batch_size": 64, **more})
        draws = (torch.arange(64) + step * 64)[rows]
        return make_batch(dataset, settings, draws, torch.device("cpu"), None, second_time)

    return make


def test_an_objective_of_somebody_else(config, tmp_path):
    seen = []
    name, options = "tests.helpers.outside:squares", {"scale": 3.0}
    given = {"objective": name, "objective_options": options, "steps": 2, "preview_every": 0}
    settings = override(config, given)
    train(settings, tmp_path, callbacks=[seen.append], device="cpu")
    assert [entry["scale"] for entry in seen if "scale" in entry] == [3.0, 3.0]


def test_an_objective_of_somebody_else_is_tried_before_anything_is_written(config, tmp_path):
    settings = override(config, {"objective": "tests.helpers.outside:breaks"})
    with pytest.raises(ValueError, match=r"objective .*:breaks fails: AttributeError"):
        train(settings, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_objective_that_gives_something_else_is_refused(config):
    batch = Batch(torch.zeros(2, 1, 8, 8), None, torch.full((2,), 0.5), torch.zeros(2, 1, 8, 8))
    diffusion = override(config, {"objective": "tests.helpers.outside:no_loss"}).diffusion
    with pytest.raises(ValueError, match=r"no_loss to give a Learned\(loss, figures\), got int"):
        path_loss(lambda z, t, y: z, batch, diffusion)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "mean_flow"}, "expected second_time true with objective mean_flow"),
        (
            {"objective": "consistency"},
            "expected time_embedding smooth with objective consistency, which differentiates",
        ),
        ({"objective": "shortcut"}, "expected objective to be one of diffusion, consistency, ect"),
        (
            {"objective": "ect", "objective_options": {"stages": 3}},
            "objective ect takes q, k, b, stage_updates, first_stage, c, got stages",
        ),
        (
            {"objective": "ect", "objective_options": {"q": 1.0}},
            r"objective ect: expected q in 1.01..1e\+06, got 1.0",
        ),
        (
            {"objective": "ect", "train_timesteps": 8},
            "expected train_timesteps 0 with objective ect, got 8",
        ),
        ({"objective": "ect", "model_out_type": "both"}, "model_out_type v with objective ect"),
        (
            {"times": [1.0, 0.7]},
            "expected a time for each of the [0-9]+ steps in times, got 2; use --steps 2",
        ),
        ({"times": [0.7, 1.0], "sample_timesteps": 2}, "times that fall, above 0, such as 1,0.7"),
        ({"times": [1.0, 0.0], "sample_timesteps": 2}, "times that fall, above 0, such as 1,0.7"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    base = loads("", base=load("small"))
    base = override(base, {"time_embedding": "sinusoidal"})
    with pytest.raises(ValueError, match=message):
        override(base, settings)


def test_which_steps_have_no_length_does_not_depend_on_the_times(digits_batch):
    """Five standard errors of a correlation of 1,024 draws."""
    batches = [digits_batch(True, step) for step in range(16)]
    u, t, r = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("u", "t", "r"))
    for times in (t, r, t + r):
        assert torch.corrcoef(torch.stack([u.double(), times.double()]))[0, 1].abs() < 5 / 32
