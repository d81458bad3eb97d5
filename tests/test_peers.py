"""Quality by CPU seconds: everybody is trained and sampled as meant, and what is done is kept."""

import copy
import inspect
import json
import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks import budget, peer_tables, peer_training, peers
from benchmarks.implementations import LACKING, PEERS, SHAPES, Sampler, nearest_in_size, size_of
from vfn.configs import load, override
from vfn.data import Labels, load_dataset
from vfn.model import DataShape, build_model
from vfn.objective import batch_loss
from vfn.pictures import grid
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.batches import make_batch

TINY = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "num_res_blocks": 1,
        "batch_size": 8, "steps": 4, "warmup": 2, "preview_every": 0}  # fmt: skip
# A picture for each class: what label goes where shows.
PICTURES = torch.linspace(-0.9, 0.9, 10).view(10, 1, 1, 1).expand(10, 1, 8, 8)


class Ours:
    """Our network and loss in the others' place."""

    def __init__(self, net, data, config):
        self.net, self.data, self.config, self.step = net, data, config, 0

    def loss(self, x0, y):
        size = self.config.train.batch_size
        draws = self.step * size + torch.arange(size)
        batch = make_batch(self.data, self.config, draws, torch.device("cpu"))
        assert torch.equal(batch.x0, x0)
        kept = batch.labels > 0  # others are dropped
        assert torch.equal(batch.labels[kept], y[kept] + 1)
        self.step += 1
        return batch_loss(self.net, batch, self.config.diffusion)


def test_the_shared_loop_is_that_of_training(tmp_path):
    config, data = override(load("digits"), TINY), load_dataset("digits", "train")
    net = build_model(config, DataShape(1, 8, 8, Labels(tuple("0123456789"))))
    peer = Ours(copy.deepcopy(net), data, config)
    assert len(list(peer_training.shared_loop(peer, data, config))) == 4
    train(config, tmp_path, model=net, device="cpu")
    average = find_checkpoint(tmp_path).ema
    assert average.keys() == dict(peer.net.named_parameters()).keys()
    for name, value in peer.net.named_parameters():
        assert torch.equal(value, average[name]), name


def alpha_sigma(alpha2):
    return alpha2.sqrt().view(-1, 1, 1, 1), (1 - alpha2).sqrt().view(-1, 1, 1, 1)


def exact(row):
    """The network that knows the picture of each class, as the implementation calls it."""
    low, high = math.atan(math.exp(-10)), math.atan(math.exp(10))

    def velocity(z, t, y):
        angle = low + (high - low) * t
        alpha, sigma = alpha_sigma(angle.cos().square())
        return ((alpha * z.double() - PICTURES[y.long() - 1]) / sigma).float()

    def noise(betas):
        def forward(z, t, y, **_):
            alpha, sigma = alpha_sigma(torch.cumprod(1 - betas.double(), 0)[t.expand(len(z))])
            return ((z - alpha * PICTURES[y]) / sigma).float()

        return forward

    return {
        "reference": velocity,
        "diffusers": lambda *inputs: SimpleNamespace(
            sample=noise(torch.linspace(1e-4, 0.02, 1000))(*inputs)
        ),
        "lucidrains": noise(cosine_betas()),
        "EDM": lambda _x, _sigma, y, **_: PICTURES[y.argmax(1)],
    }[row.split("-")[0]]


def cosine_betas():
    """Of Nichol and Dhariwal 2021 (2102.09672), eq. 17."""
    alpha2 = ((torch.arange(1001).double() / 1000 + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - alpha2[1:] / alpha2[:-1]).clamp(max=0.999)


@pytest.fixture(params=PEERS)
def row(request):
    if LACKING[request.param]:
        pytest.skip(LACKING[request.param])
    return request.param


@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_network_that_knows_the_pictures_loses_nothing_and_draws_them(row):
    """Ranges, labels, times and targets are what each implementation means by them."""
    torch.manual_seed(0)
    kind = PEERS[row]
    peer = kind(SHAPES["digits"], kind.widths[0], kind.blocks[0])
    y = torch.arange(20) % 10
    assert (peer.loss(PICTURES[y], y).shape, peer.net.training) == ((20,), True)
    peer.net.forward = exact(row)
    if row == "EDM-augmented":
        peer.augment.p = 0.0
    with torch.no_grad():
        assert peer.loss(PICTURES[y], y).max() < 1e-6
        for sampler in (*peer.few, *peer.many[:1]):
            drawn = peer.sample(sampler, y)
            assert drawn.shape == (20, 1, 8, 8)
            assert (drawn - PICTURES[y]).abs().max() < 2e-3, sampler


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.skipif(bool(LACKING["EDM"]), reason=LACKING["EDM"])
def test_edm_is_told_what_was_changed_in_training_alone():
    """Of 4,000 pictures about the share of each number that its probabilities make."""
    peer, told = PEERS["EDM-augmented"](SHAPES["digits"], 16, 1), []
    forward = exact("EDM")

    def heard(*inputs, augment_labels=None, **_):
        told.append(augment_labels)
        return forward(*inputs)

    peer.net.forward = heard
    y = torch.arange(4000) % 10
    peer.loss(PICTURES[y], y)
    shares = (told[0] != 0).double().mean(0)
    # Mirrored, which every second draw is; scaled; turned; stretched, along the axes in half.
    expected = torch.tensor([0.06, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12]).double()
    assert (shares - expected).abs().max() < 0.02
    peer.sample(peer.few[0], y[:10])
    assert told[1:] == [None] * (len(told) - 1) != []


@pytest.mark.parametrize(("row", "share"), [("EDM-augmented", 0.13), ("reference-dropout", 0.2)])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_rows_for_long_trainings_have_dropout(row, share):
    if LACKING[row]:
        pytest.skip(LACKING[row])
    plain = row.split("-")[0]
    dropout = torch.nn.functional.dropout
    for name, expected in ((plain, 0.0), (row, share)):
        peer = PEERS[name](SHAPES["digits"], 16, 1)
        with patch("torch.nn.functional.dropout", side_effect=dropout) as called:
            peer.loss(PICTURES, torch.arange(10))
        calls = [
            inspect.signature(dropout).bind(*c.args, **c.kwargs) for c in called.call_args_list
        ]
        assert {call.arguments["p"] for call in calls} == {expected}


@pytest.mark.filterwarnings("ignore")  # theirs
def test_sizes_are_those_of_the_nearest_number_of_parameters(row, monkeypatch):
    kind, shape = PEERS[row], SHAPES["digits"]
    monkeypatch.setattr(kind, "widths", kind.widths[:2])
    by_size = {
        size_of(kind(shape, width, blocks).net): (width, blocks)
        for width in kind.widths
        for blocks in kind.blocks
    }
    assert len(by_size) == 2 * len(kind.blocks)
    for size, sizes in by_size.items():
        assert [nearest_in_size(kind, shape, round(size * near)) for near in (0.99, 1.01)] == [
            sizes, sizes
        ]  # fmt: skip


@pytest.fixture
def call(tmp_path):
    def run(*words):
        asked = ["--rows", "ours", "--seeds", "3", "--num", "20", "--out", str(tmp_path)]
        return CliRunner().invoke(peers.main, [*asked, *words])

    return run


@pytest.mark.slow
def test_a_budget_is_kept_to_judged_and_not_spent_twice(call, tmp_path, monkeypatch):
    folder = budget.kept(tmp_path, "digits-20", "digits")
    folder.mkdir()
    (folder / "costs.json").write_text(json.dumps({"ours": 2.0}))
    done = call("--budget", "6")
    assert done.exit_code == 0, done.output
    result = json.loads((folder / "6" / "ours-3.json").read_text())
    assert (result["steps"], result["rate"], [*result["tried"]]) == (3, 3e-3, ["0.003"])
    found = result["few"]["abm2, 10 steps"]
    assert found["evaluations"] == 10
    for key in ("frechet_distance", "precision", "recall", "memorised", "label_agreement"):
        assert found[key] >= 0
    assert "| 6 | ours |" in (folder / "peers_digits_6.md").read_text()
    with (
        Image.open(folder / "6" / "ours-3.png") as one,
        Image.open(folder / "peers_digits_6.png") as all_,
    ):
        assert one.width < all_.width < 3 * one.width
    monkeypatch.setattr("subprocess.Popen", None)
    assert call("--budget", "6").exit_code == 0


def test_unknown_rows_are_refused_and_absent_ones_left_out(call):
    done = call("--rows", "mine")
    assert done.exit_code == 2
    assert (
        "expected rows of ours, ours-augmented, ours-muon, reference, diffusers, lucidrains, EDM, "
        "reference-dropout, EDM-augmented, EDM-muon, got mine" in done.output
    )
    assert peers.chosen_of("ours,EDM", {"EDM": "VFN_EDM names no checkout"}) == ["ours"]


@pytest.mark.parametrize(
    ("option", "words", "usual"),
    [("--budget", "60,many", "60,300,1800"), ("--seeds", "3,many", "3,4,5"),
     ("--seeds", "0.5", "3,4,5")],
)  # fmt: skip
def test_what_is_no_number_is_refused(call, option, words, usual):
    done = call(option, words)
    assert done.exit_code == 2
    assert f"expected numbers as in {usual}, got '{words}'" in done.output


def run_of(distance, row="ours"):
    """What a run keeps, of two samplers."""
    figures = dict.fromkeys(("precision", "recall", "memorised", "label_agreement"), 0.5)
    by_sampler = {
        name: {"evaluations": steps, "frechet_distance": steps * distance, **figures}
        for name, steps in (("good", 1), ("bad", 2))
    }
    told = {"rate": 1e-3, "seconds": 100 * distance, "of": peers.mark(row), "made": "a mill"}
    return {"steps": 7, "parameters": 10**6, **told, **dict.fromkeys(peer_tables.PARTS, by_sampler)}


def keep(folder, budget, row, seed, distance):
    (folder / budget).mkdir(exist_ok=True)
    path = folder / budget / f"{row.lower()}-{seed}.json"
    path.write_text(json.dumps(run_of(distance, row)))


@pytest.mark.slow
def test_finished_runs_are_shown_without_a_checkout_and_nothing_is_trained(
    call, tmp_path, monkeypatch
):
    folder = budget.kept(tmp_path, "digits-1000", "digits")
    folder.mkdir()
    keep(folder, "60", "EDM", 3, 0.5)
    keep(folder, "60", "EDM", 4, 0.7)
    keep(folder, "300", "ours", 3, 0.25)
    keep(folder, "300", "reference", 3, 0.25)
    changed = json.loads((folder / "300" / "reference-3.json").read_text()) | {"of": "another one"}
    (folder / "300" / "reference-3.json").write_text(json.dumps(changed))
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    monkeypatch.setitem(LACKING, "EDM", "VFN_EDM names no checkout")
    monkeypatch.setattr("subprocess.Popen", None)
    words = ["--finished", "--seeds", "3,4,5", "--num", "1000"]
    for rows in ("", "ours"):  # a part does not go over the whole
        done = call(*words, "--rows", rows)
        assert done.exit_code == 0, done.output
    table = (tmp_path / "peers_digits.md").read_text()
    samplers = r"good, 1 evaluations \| good, 1 evaluations"
    spread = r"0.600 ± 0.141 \| 0.600 ± 0.141"
    assert f"| 60 | EDM | {samplers} | 1.00 M | 7 | 2 | 0.001 | {spread} |" in table
    assert f"| 300 | ours | {samplers} | 1.00 M | 7 | 1 | 0.001 | 0.250 \\| 0.250 |" in table
    assert "a mill: 50 to 70 CPU seconds for 60; a mill: 25 to 25 CPU seconds for 300." in table
    assert "| reference |" not in table  # of another make
    for name in ("peers_digits", "peers_digits_by_budget"):
        assert f"({name}.png)" in table
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 100


def test_a_budget_begins_with_what_few_evaluations_do_best():
    kept = {(300.0, "ours"): [run_of(1.0)], (300.0, "EDM"): [run_of(0.5), run_of(0.75)],
            (60.0, "EDM"): [run_of(2.0)]}  # fmt: skip
    told = [(line[0], line[1], line[7]) for line in peer_tables.rows(kept)]
    assert told == [
        ("60", "EDM", r"2.000 \| 2.000"),
        ("300", "EDM", r"0.625 ± 0.177 \| 0.625 ± 0.177"),
        ("300", "ours", r"1.000 \| 1.000"),
    ]


@pytest.mark.parametrize(
    ("name", "evaluations", "told"),
    [("DDIM, 10 steps", 10, "DDIM, 10 steps"),
     ("Heun, 32 steps", 63, "Heun, 32 steps, 63 evaluations"),
     ("Heun, 10 steps", 1, "Heun, 10 steps, 1 evaluations")],
)  # fmt: skip
def test_evaluations_are_told_where_they_are_not_one_a_step(name, evaluations, told):
    assert peer_tables.sampler(name, evaluations) == told


def test_the_chart_has_the_mean_of_each_row_over_budgets():
    kept = {(60.0, "ours"): [run_of(1.0), run_of(3.0)], (300.0, "ours"): [run_of(0.5)],
            (300.0, "EDM"): [run_of(0.75)]}  # fmt: skip
    few, many = peer_tables.chart(kept, 0.1).axes
    for axis in (few, many):
        lines = {each.get_label(): each.lines[0].get_xydata().tolist() for each in axis.containers}
        assert lines == {"ours": [[60, 2], [300, 0.5]], "EDM": [[300, 0.75]]}
        assert [*axis.get_xticks()] == [60, 300]


def test_by_how_many_pictures_samplers_are_chosen_is_told_where_they_are_fewer():
    def of(*counts):
        return {(60.0, "EDM"): [run_of(1.0) | {"tried_by": count} for count in counts]}

    assert peer_tables.by_fewer({(60.0, "EDM"): [run_of(1.0)]}, 1000) == ""
    assert peer_tables.by_fewer(of(1000, 250, 200), 1000) == ", by 200 or 250 pictures"


def test_nothing_finished_is_said(call):
    done = call("--finished", "--budget", "60")
    assert done.exit_code == 2
    assert "expected finished runs of 60 s" in done.output


def test_costs_are_measured_in_turn_and_once(tmp_path):
    seen = []

    def costing(name, values):
        return lambda: seen.append(name) or values.pop()

    asked = {"a": costing("a", [5.0, 1.0, 2.0]), "b": costing("b", [4.0, 4.0, 4.0])}
    assert budget.costs(asked, tmp_path / "costs.json") == {"a": 2.0, "b": 4.0}
    assert seen == ["a", "b"] * 3
    assert budget.costs(asked, tmp_path / "costs.json") == {"a": 2.0, "b": 4.0}
    assert seen == ["a", "b"] * 3


def test_what_is_measured_later_counts_as_what_was_measured_first(tmp_path):
    """The machine has half the speed by then: 3 seconds are 1.5 of those of the first time."""
    path = tmp_path / "costs.json"
    assert budget.costs({"a": lambda: 2.0, "b": lambda: 5.0}, path) == {"a": 2.0, "b": 5.0}
    found = budget.costs({"a": lambda: 4.0, "c": lambda: 3.0}, path)
    assert found == {"a": 2.0, "b": 5.0, "c": 1.5} == json.loads(path.read_text())


def test_a_run_that_fails_is_said():
    with pytest.raises(SystemExit, match="1 of 2 runs failed"):
        budget.run_all("timeit", [["-n1", "-r1", "pass"], ["-n1", "-r1", "1 / 0"]], 2)


def test_a_perfect_sampler_is_judged_by_as_many_pictures():
    few, many = (budget.perfect("digits", num, "agreement") for num in (100, 1000))
    assert few["frechet_distance"] > 1.5 * many["frechet_distance"]
    assert few["label_agreement"] == many["label_agreement"] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("trials", [40, 30])
def test_the_better_rate_and_sampler_of_one_seed_are_those_of_the_others(
    trials, monkeypatch, tmp_path
):
    """A bad one draws noise, a good one pictures; at another seed the bad ones are not asked.

    Nor are they for more pictures, where they are tried by few.
    """
    shown = tmp_path / "EDM-3.png"
    asked, some = [], load_dataset("digits", "train").rows(torch.arange(40))
    bad, good = Sampler("bad", 1), Sampler("good", 2)

    def train(_row, config):
        def draw(sampler, num):
            asked.append((config.train.lr, sampler.word, num))
            well = (config.train.lr, sampler) == (1e-3, good)
            images = some.images if well else torch.randint_like(some.images, 256)
            return images[:num], some.labels[:num], sampler.steps

        return peer_training.Made(
            1, 0.0, [1.0], dict.fromkeys(peer_tables.PARTS, (bad, good)), draw
        )

    monkeypatch.setattr(peers, "theirs", train)
    first = peers.one("EDM", "digits", 3, 1, 40, trials, {}, shown)
    other = peers.one("EDM", "digits", 4, 1, 40, trials, first, shown)
    both = [(rate, word, trials) for rate in (3e-3, 1e-3) for word in ("bad", "good") * 2]
    assert asked == both + [(1e-3, "good", 40)] * (2 if trials == 40 else 4)
    assert (first["tried_by"], other["tried_by"]) == (trials, 40)
    assert (first["rate"], [*first["tried"]], other["rate"]) == (1e-3, ["0.003", "0.001"], 1e-3)
    assert first["tried"]["0.003"] > 5 * first["tried"]["0.001"]
    with Image.open(shown) as image:
        assert image.tobytes() == grid(some.images[:20], 10).tobytes()
    for found in ([first, other], [other, first], [first, first]):
        (told,) = peer_tables.rows({(60, "ours"): found})
        assert (told[2], told[6]) == (rf"{good} \| {good}", "0.001")


def test_few_steps_do_not_all_go_to_warming_up():
    warmups = [
        peer_training.configuration("EDM", "mnist5k", 0, steps).train.warmup for steps in (45, 1000)
    ]
    assert warmups == [11, load("mnist5k").train.warmup]


def test_what_our_other_rows_change():
    plain, augmented, muon = (
        peer_training.configuration(row, "digits") for row in peer_training.OURS
    )
    assert (plain.data.augment, plain.model.dropout) == (0, 0)
    assert (augmented.data.augment, augmented.model.dropout) == (0.12, 0.1)
    assert (plain.train.optimizer, plain.train.lr) == ("adamw", load("digits").train.lr)
    assert (muon.train.optimizer, muon.train.lr) == ("muon", 2 * plain.train.lr)
    assert peers.rates_of("ours-muon", "digits") == [muon.train.lr]
    others = peer_training.configuration("EDM-muon", "digits")
    assert others.train.optimizer == "muon"
    assert peers.rates_of("EDM", "digits") == list(peers.RATES)
    assert peers.rates_of("EDM-muon", "digits") == [2 * rate for rate in peers.RATES]
