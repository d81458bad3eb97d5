"""A network as a denoiser: golden samples, conditioning, guidance, clipping."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from vfn.interop.reference_parameters import params_from_reference
from vfn.nn import Conditions, UNet, denoiser, with_params
from vfn.ops import (
    Remembering,
    guidance_rule,
    guided_x0,
    interval_strength,
    logsnr_grid,
    logsnr_schedule,
    predict,
    sample,
)

SCHEDULE = logsnr_schedule("cosine")


class Stub(nn.Module):
    """Puts out ``gain`` times the label (a sum over tags), and records how it is called."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, z, t, y):
        self.calls.append((z.clone(), t, y))
        level = torch.zeros(len(z)) if y is None else y.reshape(len(z), -1).sum(-1)
        return self.gain * level.reshape(-1, 1, 1, 1).expand_as(z)


@pytest.fixture
def stub():
    return Stub()


def denoise(model, *args, gain=1.0, z=None, **options):
    """x0 of two samples from a stub, whose raw output is x0."""
    params = {"gain": torch.tensor(gain)}
    z = torch.full((2, 1, 2, 2), 0.25) if z is None else z
    return denoiser(model, params, SCHEDULE, "x0", *args, **options)(z, torch.zeros(2).double())


@pytest.mark.parametrize(("w", "key"), [(0.0, "ddim8_w0"), (0.5, "ddim8_w0.5")])
def test_samples_match_golden(w, key, golden_unet):
    """8 DDIM steps in float32; errors grow on the way to 1e-5."""
    model = UNet(1, 1, 32, (1, 2), 1, (False, True), num_classes=10).eval()
    state = {k.removeprefix("param/"): v for k, v in golden_unet.items() if k.startswith("param/")}
    params = params_from_reference(state, model)
    labels = golden_unet["y"].long()
    with torch.inference_mode():
        denoise = denoiser(model, params, SCHEDULE, "v", labels, w)
        result = sample(denoise, golden_unet["x"], logsnr_grid(SCHEDULE, 8))
    torch.testing.assert_close(result.x0, golden_unet[key], rtol=0, atol=1e-4)
    assert result.nfe == 8


def test_network_is_conditioned_on_the_time_of_its_own_schedule(stub):
    """So that sampling may use another schedule than training."""
    z, logsnr = torch.zeros(2, 1, 2, 2), torch.tensor([-3.0, 5.0]).double()
    for name in ("cosine", "linear", "sigmoid", "flow"):
        schedule = logsnr_schedule(name)
        denoiser(stub, {"gain": torch.ones(())}, schedule, "v")(z, logsnr)
        torch.testing.assert_close(schedule.logsnr(stub.calls[-1][1]), logsnr)


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "u"])
def test_output_is_converted_from_its_type(stub, out_type):
    z, logsnr = torch.randn(2, 1, 2, 2), torch.tensor([-1.0, 1.0]).double()
    labels = torch.tensor([1, 2])
    denoise = denoiser(stub, {"gain": torch.tensor(0.3)}, SCHEDULE, out_type, labels, clip=False)
    out = torch.tensor([0.3, 0.6]).reshape(2, 1, 1, 1).expand_as(z)
    torch.testing.assert_close(denoise(z, logsnr), predict(z, out, logsnr, out_type).x0)


def test_parameters_are_an_argument(stub):
    """Those given are used; those of the module are neither used nor changed."""
    labels = torch.tensor([1, 2])
    assert denoise(stub, labels, gain=0.25)[:, 0, 0, 0].tolist() == [0.25, 0.5]
    assert stub.gain.item() == 1
    params = {"gain": torch.tensor(0.5, requires_grad=True)}
    z, logsnr = torch.zeros(2, 1, 2, 2), torch.zeros(2)
    made = denoiser(stub, params, SCHEDULE, "x0", labels, clip=False, gradient=True)
    made(z, logsnr).sum().backward()
    assert params["gain"].item() == 0.5
    assert params["gain"].grad.item() == 12  # (1 + 2) over four pixels
    assert stub.gain.grad is None


def test_guidance_is_one_call_of_a_doubled_batch(stub):
    labels = torch.tensor([1, 3])
    denoise(stub, labels, guidance=0.5)
    ((z, t, y),) = stub.calls
    assert y.tolist() == [1, 3, 0, 0]
    assert torch.equal(z[:2], z[2:])
    assert t.shape == (4,)
    assert labels.tolist() == [1, 3]


@pytest.mark.parametrize(("level", "expected"), [(0.0, [0.375, 0.75]), (4.0, [0.25, 0.5])])
def test_guidance_within_an_interval(stub, level, expected):
    """Still in one doubled batch, so that no step waits for a look at the logsnr."""
    guidance = interval_strength(0.5, -1.0, 1.0)
    model = denoiser(
        stub, {"gain": torch.tensor(0.25)}, SCHEDULE, "x0", torch.tensor([1, 2]), guidance
    )
    got = model(torch.zeros(2, 1, 2, 2), torch.full((2,), level).double())
    assert got[:, 0, 0, 0].tolist() == expected
    assert [len(z) for z, _, _ in stub.calls] == [4]


@pytest.mark.parametrize(("phi", "scale"), [(0.0, 3.0), (0.5, 2.0), (1.0, 1.0)])
def test_contrast_of_guidance_is_rescaled(stub, phi, scale):
    """Guided with w = 2 against zero, x0 is three times the conditional, and phi takes it back."""
    stub.forward = lambda z, t, y: z * (y > 0).float().reshape(-1, 1, 1, 1)
    z = torch.linspace(-0.3, 0.3, 8).reshape(2, 1, 2, 2)
    got = denoise(stub, torch.tensor([1, 1]), z=z, guidance=2.0, rescale=phi)
    torch.testing.assert_close(got, scale * z)


def test_no_guidance_is_the_conditional_in_a_single_batch(stub):
    got = denoise(stub, torch.tensor([1, 2]), gain=0.25, guidance=0.0)
    assert got[:, 0, 0, 0].tolist() == [0.25, 0.5]
    ((z, _, _),) = stub.calls
    assert len(z) == 2


@pytest.mark.parametrize(
    ("clip", "expected"),
    [(True, [0.75, 1.5]), (False, [0.75, 3.0])],
)
def test_branches_are_clipped_before_they_are_combined(stub, clip, expected):
    """cond + w (cond - 0) with w = 1/2: of 0.5, and of 2 clipped to 1."""
    got = denoise(stub, torch.tensor([1, 4]), gain=0.5, guidance=0.5, clip=clip)
    assert got[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize(("gain", "expected"), [(-5.0, -1.0), (5.0, 1.0)])
def test_x0_is_clipped_where_asked(stub, gain, expected):
    labels = torch.tensor([1, 1])
    assert denoise(stub, labels, gain=gain).unique().item() == expected
    assert denoise(stub, labels, gain=gain, clip=False).unique().item() == gain


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_classes": 3}, torch.zeros(2, dtype=torch.long)),
        ({"num_classes": 3, "multitags": True}, torch.zeros(2, 3, dtype=torch.long)),
        ({"num_classes": 0}, None),
    ],
)
def test_no_labels_are_the_label_for_none(options, expected):
    """The zero label that training drops to, where the network knows labels."""
    model, seen = UNet(1, 1, 32, (1,), 1, **options), []
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[2]))
    params = dict(model.named_parameters())
    denoiser(model, params, SCHEDULE, "v")(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    (y,) = seen
    assert (y is None) if expected is None else torch.equal(y, expected)


def test_guidance_leads_away_from_no_condition_of_the_same_augmentation():
    given = Conditions(torch.ones(2, 3), torch.ones(2, 1, 1, 1), torch.ones(2, 9))
    seen = {}

    class Told(nn.Module):
        def forward(self, z, *_, **more):
            seen.update(more)
            return 0 * z

    guided = denoiser(Told(), None, SCHEDULE, "x0", None, 1.0, conditions=given)
    guided(torch.zeros(2, 1, 1, 1), torch.zeros(2))
    for name, there in (("vector", 2), ("image", 2), ("augment", 4)):
        assert seen[name].flatten(1).all(1).sum() == there
        assert seen[name][:2].all()


def test_tags_are_guided_against_no_tags(stub):
    denoise(stub, torch.tensor([[1, 0, 1], [0, 1, 0]]), guidance=1.0)
    assert stub.calls[0][2].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_z_is_left_alone(stub):
    z = torch.full((2, 1, 2, 2), 3.0)
    denoise(stub, torch.tensor([1, 2]), z=z, guidance=1.0)
    assert z.eq(3).all()


def test_guidance_without_labels_is_refused(stub):
    """Augmentation is nothing that it could lead away from."""
    told = Conditions(augment=torch.ones(2, 9))
    with pytest.raises(ValueError, match=r"expected labels for guidance 0\.5, got None"):
        denoise(stub, None, 0.5, conditions=told)
    with pytest.raises(
        ValueError, match=r"expected labels for guidance 0\.5, got None; give labels"
    ):
        denoise(stub, guidance=0.5)
    with pytest.raises(ValueError, match="expected labels for guidance of some log-SNRs, got None"):
        denoise(stub, guidance=interval_strength(0.5, -1.0, 1.0))


def test_negative_guidance_is_refused(stub):
    with pytest.raises(ValueError, match=r"expected guidance >= 0, got -1\.0"):
        denoise(stub, torch.tensor([1, 2]), guidance=-1.0)


class Learner(nn.Module):
    """Puts out ``gain`` and the label, from which a fraction of the variance is made."""

    def forward(self, z, _t, y):
        level = y.reshape(-1, 1, 1, 1).expand_as(z).to(z.dtype)
        return torch.cat([torch.full_like(z, 0.5), level], 1)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_variance_is_that_of_the_conditional_branch(w):
    z, logsnr = torch.zeros(2, 1, 2, 2), torch.zeros(2).double()
    labels = torch.tensor([1, 2])
    both = denoiser(Learner(), {}, SCHEDULE, "x0", labels, w, variance=True)(z, logsnr)
    assert both.shape == (2, 2, 2, 2)
    torch.testing.assert_close(both[:, :1], torch.full_like(z, 0.5))
    torch.testing.assert_close(torch.logit(both[:, 1, 0, 0]), torch.tensor([1.0, 2.0]))
    plain = denoiser(Learner(), {}, SCHEDULE, "x0", labels, w)(z, logsnr)
    assert torch.equal(plain, both[:, :1])


def test_variance_of_a_network_that_has_none_is_refused(stub):
    with pytest.raises(ValueError, match="expected a network with learned variance"):
        denoise(stub, torch.tensor([1, 2]), variance=True)


def test_sampling_keeps_no_graph_of_the_parameters():
    """But that of z, which the likelihood and guidance by gradients need."""
    net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    params, z = dict(net.named_parameters()), torch.randn(2, 1, 8, 8)
    grid = logsnr_grid(SCHEDULE, 3)
    assert all(value.requires_grad for value in params.values())
    made = denoiser(net, params, SCHEDULE, "v")
    assert not sample(made, z, grid).x0.requires_grad
    free = z.clone().requires_grad_()
    sample(made, free, grid).x0.square().sum().backward()
    assert free.grad.abs().sum() > 0
    kept = denoiser(net, params, SCHEDULE, "v", gradient=True)
    assert sample(kept, z, grid).x0.requires_grad
    torch.testing.assert_close(sample(kept, z, grid).x0, sample(made, z, grid).x0, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "got 0 with weight, bias missing and none unknown"),
        ({"weight": torch.ones(1, 1)}, "with bias missing"),
        (
            {"weight": torch.ones(1, 1), "bias": torch.ones(1), "wieght": torch.ones(1)},
            "wieght unk",
        ),
        ({"module.weight": torch.ones(1, 1), "module.bias": torch.ones(1)}, "weight, bias missing"),
    ],
)
def test_parameters_that_are_not_the_networks_are_refused(params, message):
    """They would run with weights of the module's own."""
    for make in (with_params, lambda net, p: denoiser(net, p, SCHEDULE, "v")):
        with pytest.raises(ValueError, match=message):
            make(nn.Linear(1, 1), params)


class Tied(nn.Module):
    """One parameter under two names, and a buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.second = self.first
        self.register_buffer("shift", torch.zeros(1))

    def forward(self, x):
        return self.second(self.first(x)) + self.shift


@pytest.mark.parametrize(
    ("params", "value"),
    [
        ({"first.weight": 2.0}, 4.0),
        ({"second.weight": 2.0}, 4.0),
        ({"first.weight": 2.0, "shift": 1.0}, 5.0),
        (None, 9.0),
    ],
)
def test_tied_parameters_and_buffers_have_their_names(params, value):
    net = Tied()
    nn.init.constant_(net.first.weight, 3.0)
    given = params and {
        k: torch.full((1, 1), v) if k != "shift" else torch.full((1,), v) for k, v in params.items()
    }
    assert with_params(net, given)(torch.ones(1, 1)).item() == value


def test_a_module_without_parameters_takes_none():
    assert with_params(nn.Identity(), {})(torch.ones(1)).item() == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 4], "labels in 0..3, 0 for unconditional, got 4 at 1"), ([-1, 0], "got -1 at 0")],
)
def test_labels_that_the_network_does_not_know_are_refused(labels, message):
    net = UNet(1, 1, 32, (1,), 1, num_classes=3)
    with pytest.raises(ValueError, match=message):
        denoiser(net, None, SCHEDULE, "v", torch.tensor(labels))
    plain = UNet(1, 1, 32, (1,), 1)
    with pytest.raises(ValueError, match="expected no labels for an unconditional network"):
        denoiser(plain, None, SCHEDULE, "v", torch.tensor([1]))


# Away from a weaker network, by rules, and standing still at first.


def weaker(value=0.1):
    """A denoiser that says the same of everything, and is called as often as it says."""
    calls = []

    def denoise(z, _logsnr):
        calls.append(len(z))
        return torch.full_like(z, value)

    denoise.calls = calls
    return denoise


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.25 + (0.25 - 0.1), 0.5 + (0.5 - 0.1)]),
        ({"weak_guidance": 2.0}, [0.25 + 2 * (0.25 - 0.1), 0.5 + 2 * (0.5 - 0.1)]),
        ({"weak_guidance": interval_strength(2.0, 1.0, 2.0)}, [0.25, 0.5]),
        ({"weak_guidance": torch.tensor([0.0, 1.0])}, [0.25, 0.9]),
        # cond + w (cond - uncond) + g (cond - weak), and uncond is 0.
        ({"guidance": 0.5, "weak_guidance": 2.0}, [0.25 * 1.5 + 2 * 0.15, 0.5 * 1.5 + 2 * 0.4]),
    ],
)
def test_x0_is_led_away_from_a_weaker_network(stub, options, expected):
    """In a call of its own, while the network's own branches share a doubled batch."""
    weak = weaker()
    got = denoise(stub, torch.tensor([1, 2]), gain=0.25, weak=weak, **options)
    assert got[:, 0, 0, 0].tolist() == pytest.approx(expected, abs=1e-7)
    assert weak.calls == [2]
    assert [len(z) for z, _, _ in stub.calls] == [4 if "guidance" in options else 2]


def test_a_weaker_network_guides_without_labels_too(stub):
    got = denoise(stub, None, gain=0.25, weak=weaker(-0.5), weak_guidance=0.5)
    assert got.unique().tolist() == [0.25]  # 0 + (0 - -0.5)/2
    weak = weaker()
    denoise(stub, torch.tensor([1, 2]), weak=weak, weak_guidance=0.0)
    assert weak.calls == []
    with pytest.raises(ValueError, match="expected weak_guidance >= 0, got -0.5"):
        denoise(stub, None, weak=weak, weak_guidance=-0.5)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_variance_stays_that_of_the_network_that_is_guided(w):
    z, logsnr, labels = torch.zeros(2, 1, 2, 2), torch.zeros(2).double(), torch.tensor([1, 2])
    both = denoiser(Learner(), {}, SCHEDULE, "x0", labels, w, variance=True, weak=weaker())
    got = both(z, logsnr)
    torch.testing.assert_close(got[:, :1], torch.full_like(z, 0.5 + 0.4))
    torch.testing.assert_close(torch.logit(got[:, 1, 0, 0]), torch.tensor([1.0, 2.0]))


def test_contrast_is_brought_back_after_all_guidance(stub):
    stub.forward = lambda z, t, y: z * (y > 0).float().reshape(-1, 1, 1, 1)
    z = torch.linspace(-0.3, 0.3, 8).reshape(2, 1, 2, 2)
    more = {"guidance": 2.0, "weak": lambda z, _: 0.5 * z, "weak_guidance": 2.0}
    torch.testing.assert_close(denoise(stub, torch.tensor([1, 1]), z=z, **more), 4 * z)
    back = denoise(stub, torch.tensor([1, 1]), z=z, rescale=1.0, **more)
    torch.testing.assert_close(back, z)


def test_a_rule_combines_the_branches(stub):
    """And one that remembers makes a denoiser that does."""
    stub.forward = lambda z, t, y: z * (y > 0).float().reshape(-1, 1, 1, 1)
    z, labels = torch.linspace(-0.3, 0.4, 8).reshape(2, 1, 2, 2), torch.tensor([1, 1])
    for rule in (guidance_rule("apg"), guidance_rule("zero_star")):
        got = denoise(stub, labels, z=z, guidance=2.0, rule=rule)
        expected = guided_x0(z, [z, 0 * z], torch.zeros(2), [2.0], rule).x0
        torch.testing.assert_close(got, expected)
        assert not torch.equal(got, 3 * z)
    params = {"gain": torch.tensor(1.0)}
    made = [
        denoiser(stub, params, SCHEDULE, "x0", labels, w, rule=guidance_rule("apg", momentum=-0.5))
        for w in (2.0, 0.0)
    ]
    assert [isinstance(each, Remembering) for each in made] == [True, False]
    first = made[0].recall(z, torch.zeros(2), None)
    torch.testing.assert_close(first.memory[0][0], z)
    second = made[0].recall(z, torch.zeros(2), first.memory)
    torch.testing.assert_close(second.memory[0][0], z - 0.5 * z)


def test_the_flow_stands_still_at_first(stub):
    z, logsnr = torch.full((2, 1, 2, 2), 0.7), torch.tensor([-20.0, 0.0]).double()
    params, labels = {"gain": torch.tensor(0.25)}, torch.tensor([1, 1])
    made = denoiser(stub, params, SCHEDULE, "x0", labels, 1.0, zero_until=-15.0)
    got = made(z, logsnr)[:, 0, 0, 0].tolist()
    assert got == pytest.approx([0.7 / (1 + 4.54e-5), 0.5], rel=1e-6)


def test_a_network_that_takes_guidance_follows_no_rule(stub):
    stub.guidance_range = (0.0, 4.0)
    with pytest.raises(ValueError, match="nor guidance_rule: this network takes guidance as an in"):
        denoise(stub, torch.tensor([1, 2]), guidance=1.0, rule=guidance_rule("apg"))


def test_threads_share_a_module():
    """Each with parameters of its own; the module has its own after them."""
    model = UNet(1, 1, 32, (1,), 1, (False,), num_classes=10).eval()
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    z, t, y = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5), torch.tensor([1, 2])
    torch.manual_seed(0)
    sets = [{name: torch.randn_like(value) for name, value in own.items()} for _ in range(8)]
    networks = [with_params(model, params) for params in sets]
    alone = [network(z, t, y) for network in networks]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = list(pool.map(lambda network: network(z, t, y), networks))
            assert all(map(torch.equal, alone, together))
    assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("weight", [np.float64(0.5), np.float32(0.5), np.float64(0)])
def test_a_weight_of_numpy_is_a_number(stub, weight):
    labels = torch.tensor([1, 1])
    assert torch.equal(denoise(stub, labels, weight), denoise(stub, labels, float(weight)))


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(
    "logsnr", [1.5, torch.tensor(1.5), torch.full((1,), 1.5), torch.full((2, 1, 1, 1), 1.5)]
)
def test_one_logsnr_for_all_and_one_for_each_with_axes(weight, logsnr):
    torch.manual_seed(0)
    model = UNet(1, 1, 32, (1,), 1, (False,), num_classes=10).eval()
    params = {name: 0.1 * torch.randn_like(value) for name, value in model.named_parameters()}
    said = denoiser(model, params, SCHEDULE, "v", torch.tensor([1, 2]), weight)
    z = torch.randn(2, 1, 8, 8)
    assert torch.equal(said(z, logsnr), said(z, torch.full((2,), 1.5)))


def test_a_number_as_level_keeps_its_digits(stub):
    """Whatever the type of the data: the network gets its time in float64."""
    z, level = torch.zeros(2, 1, 2, 2).bfloat16(), torch.tensor(13.37, dtype=torch.float64)
    denoise = denoiser(stub.to(z.dtype), None, SCHEDULE, "x0", torch.tensor([1, 2]))
    denoise(z, 13.37)
    (_, t, _) = stub.calls[0]
    assert t.dtype == torch.float64
    torch.testing.assert_close(t, SCHEDULE.time(level).expand(2), rtol=0, atol=0)
