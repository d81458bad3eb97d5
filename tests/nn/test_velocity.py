"""The velocity of a network with and without gradients, forward differentiation, a second time."""

import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call

from vfn import ops
from vfn.nn import (
    UNet,
    bare,
    denoiser,
    fixed_velocity,
    live_velocity,
    refit_time_embedding,
)
from vfn.nn.layers import attend, group_norm

# PyTorch's own forward-mode rules are still scripted when they are first used; `along_path` says
# nothing of it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
SCHEDULE = ops.logsnr_schedule("cosine")
LOGSNR = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
SMALL = {"hid_channels": 32, "ch_multipliers": (1, 2), "num_res_blocks": 1, "embedding_dim": 16,
         "apply_attn": (False, True), "num_classes": 4, "time_embedding": "smooth"}  # fmt: skip


def network(**options):
    """A network that says something: its last layers do not start at zero."""
    torch.manual_seed(0)
    net = UNet(1, 1, **{**SMALL, **options})
    for param in net.parameters():
        nn.init.normal_(param, std=0.1)
    return net.double()


def inputs():
    draw = torch.Generator().manual_seed(0)
    z, dz = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64, generator=draw)
    return z, dz, torch.tensor([1, 0, 4])


def at_angle(phi):
    return -2 * torch.log(torch.tan(phi))


@pytest.mark.parametrize("second", [False, True])
def test_rate_along_a_path_is_that_of_finite_differences(second, each_device):
    """Of a network with attention; a step of 1e-4 leaves 1e-8 of its third derivative."""
    z, dz, labels, logsnr = (value.to(each_device) for value in (*inputs(), LOGSNR))
    net = network(second_time=second).to(each_device)
    v = fixed_velocity(net, SCHEDULE, "v", (labels,))
    end = (logsnr + 2.0,) if second else ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, rate = ops.along_path(lambda z, level: v(z, level, *end), z, logsnr, dz)
    phi = torch.atan(torch.exp(-logsnr / 2))
    ahead, behind = (v(z + h * dz, at_angle(phi + h), *end) for h in (1e-4, -1e-4))
    torch.testing.assert_close(rate, (ahead - behind) / 2e-4, rtol=1e-5, atol=1e-6)
    assert torch.allclose(value, v(z, logsnr, *end))
    assert rate.abs().max() > 0.1


def test_attention_is_differentiated_forward_like_backward():
    q, k, v, dq = torch.randn(4, 2, 2, 5, 8, dtype=torch.float64)
    weight = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    _, forward = torch.func.jvp(lambda q: (weight * attend(q, k, v)).sum(), (q,), (dq,))
    backward = torch.func.grad(lambda q: (weight * attend(q, k, v)).sum())(q)
    torch.testing.assert_close(forward, (backward * dq).sum())


@pytest.mark.parametrize(("channels", "size"), [(32, (5, 3)), (64, (4, 4)), (12, (1, 1))])
def test_normalisation_is_differentiated_forward_by_the_formula(channels, size):
    """Without gradients by a rule of ours, else by PyTorch's, and in parameters too."""
    norm = group_norm(channels).double()
    nn.init.normal_(norm.weight)
    x, dx = torch.randn(2, 3, channels, *size, dtype=torch.float64) + 2
    params = (norm.weight.detach(), norm.bias.detach())

    def normed(x, weight, bias):
        return functional_call(norm, {"weight": weight, "bias": bias}, x)

    def rate(*tangents):
        return torch.func.jvp(normed, (x, *params), tangents)[1]

    nothing = tuple(map(torch.zeros_like, params))
    moved = tuple(map(torch.ones_like, params))
    expected, both = rate(dx, *nothing), rate(dx, *moved)
    with torch.no_grad():
        by_rule = torch.func.jvp(lambda x: normed(x, *params), (x,), (dx,))
        assert torch.equal(by_rule[0], normed(x, *params))
        torch.testing.assert_close(by_rule[1], expected)
        torch.testing.assert_close(rate(dx, *moved), both)
    assert not torch.allclose(both, expected)


def test_attention_takes_the_fused_kernel_otherwise(monkeypatch):
    q = torch.randn(1, 1, 4, 8)
    monkeypatch.setattr("vfn.nn.layers.sdpa_kernel", None)  # which nobody calls then
    torch.testing.assert_close(
        attend(q, q, q), torch.nn.functional.scaled_dot_product_attention(q, q, q)
    )


def test_gradients_reach_the_live_one_alone():
    net, (z, _, labels) = network(), inputs()
    live, fixed = (make(net, SCHEDULE, "v", (labels,)) for make in (live_velocity, fixed_velocity))
    assert torch.equal(live(z, LOGSNR), fixed(z, LOGSNR))
    assert live(z, LOGSNR).requires_grad
    assert not fixed(z, LOGSNR).requires_grad


@pytest.mark.parametrize("out_type", ["v", "x0", "eps", "u"])
def test_velocity_of_any_prediction(out_type):
    net, (z, _, labels) = network(), inputs()
    out = net(z, SCHEDULE.time(LOGSNR), labels)
    expected = ops.predict(z, out, LOGSNR, out_type).v
    got = live_velocity(net, SCHEDULE, out_type, (labels,))(z, LOGSNR)
    torch.testing.assert_close(got, expected)


def test_the_fixed_one_has_full_precision_under_autocast():
    net, (z, _, labels) = network().float(), inputs()
    fixed = fixed_velocity(net, SCHEDULE, "v", (labels,))
    plain = fixed(z.float(), LOGSNR)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fixed(z.float(), LOGSNR), plain)


def test_what_wraps_a_network_is_taken_off():
    net = network()
    assert bare(torch.compile(net)) is net
    assert bare(net) is net
    assert bare(abs) is abs


def test_a_network_with_a_second_time_starts_as_the_one_without():
    plain, (z, _, labels) = network().float(), inputs()
    torch.manual_seed(1)
    two = UNet(1, 1, **SMALL, second_time=True)
    own = {name for name, _ in two.named_parameters()} - plain.state_dict().keys()
    assert all(name.startswith("second_embed.") for name in own)
    assert own
    two.load_state_dict(plain.state_dict(), strict=False)
    t, r = SCHEDULE.time(LOGSNR), SCHEDULE.time(LOGSNR + 3)
    assert torch.equal(two(z.float(), t, labels, r=r), plain(z.float(), t, labels))


def test_a_second_time_counts_and_is_the_first_by_default():
    net, (z, _, labels) = network(second_time=True), inputs()
    t, r = SCHEDULE.time(LOGSNR), SCHEDULE.time(LOGSNR + 3)
    there = net(z, t, labels, r=r)
    assert not torch.allclose(there, net(z, t, labels))
    assert torch.equal(net(z, t, labels, r=t), net(z, t, labels))
    rows = torch.cat([net(z[i : i + 1], t[i : i + 1], labels[i : i + 1], r=r[i : i + 1])
                      for i in range(3)])  # fmt: skip
    torch.testing.assert_close(rows, there)


def test_a_second_time_that_does_not_fit_is_refused():
    z, _, labels = inputs()
    t = SCHEDULE.time(LOGSNR)
    with pytest.raises(ValueError, match="expected no second time for a network that does not"):
        network()(z, t, labels, r=t)
    with pytest.raises(ValueError, match=r"second time of shape \(3,\), one for each sample"):
        network(second_time=True)(z, t, labels, r=t[:2])


@pytest.mark.parametrize("w", [0.0, 0.7])
def test_a_denoiser_of_mean_velocities_knows_of_the_whole_step(w):
    """Where it leads is where the mean velocity does; with guidance that of both branches."""
    net, (z, _, labels) = network(second_time=True), inputs()
    end = LOGSNR + 3
    denoise = denoiser(net, None, SCHEDULE, "v", labels, w, clip=False)
    asked, unasked = (
        net(z, SCHEDULE.time(LOGSNR), y, r=SCHEDULE.time(end)) for y in (labels, 0 * labels)
    )
    expected = ops.mean_velocity_step(z, asked + w * (asked - unasked), LOGSNR, end)
    got = ops.ddim_step(z, denoise.between(z, LOGSNR, end), LOGSNR, end)
    torch.testing.assert_close(got, expected.detach())
    here = net(z, SCHEDULE.time(LOGSNR), labels) * (1 + w)
    here = here - w * net(z, SCHEDULE.time(LOGSNR), 0 * labels)
    torch.testing.assert_close(denoise(z, LOGSNR), ops.x0_from_v(z, here.detach(), LOGSNR))


@pytest.mark.parametrize("weaker", [{"rule": ops.guidance_rule("apg", momentum=-0.5)}, {}])
def test_guidance_of_a_whole_step_is_of_the_whole_step(weaker):
    """Away from itself nothing leads; and a single step has nothing to remember."""
    net, (z, _, labels) = network(second_time=True), inputs()
    grid = torch.tensor([-6.0, 6.0])

    def drawn(**more):
        denoise = denoiser(net, None, SCHEDULE, "v", labels, clip=False, **more)
        return ops.sampler("mean_flow")(denoise, z, grid).x0

    alike = denoiser(net, None, SCHEDULE, "v", labels, clip=False)
    torch.testing.assert_close(drawn(weak=alike, weak_guidance=1.5, **weaker), drawn())
    by_apg = ops.guidance_rule("apg")
    torch.testing.assert_close(drawn(guidance=0.7, **{"rule": by_apg, **weaker}),
                               drawn(guidance=0.7, rule=by_apg))  # fmt: skip


def test_beside_a_network_without_a_second_time_no_step_is_long():
    net, other, (_, _, labels) = network(second_time=True), network(), inputs()
    weak = denoiser(other, None, SCHEDULE, "v", labels, clip=False)
    denoise = denoiser(net, None, SCHEDULE, "v", labels, clip=False, weak=weak)
    assert not isinstance(denoise, ops.Spanning)


def test_parameters_are_an_argument_of_a_network_with_a_second_time():
    net, (z, _, labels) = network(second_time=True), inputs()
    params = {name: 2 * value.detach() for name, value in net.named_parameters()}
    denoise = denoiser(net, params, SCHEDULE, "v", labels, clip=False)
    r = SCHEDULE.time(LOGSNR + 1)
    u = functional_call(net, params, (z, SCHEDULE.time(LOGSNR), labels), {"r": r})
    expected = ops.x0_from_mean_velocity(z, u.detach(), LOGSNR, LOGSNR + 1)
    torch.testing.assert_close(denoise.between(z, LOGSNR, LOGSNR + 1), expected)


def test_a_smooth_embedding_is_fitted_to_what_a_trained_one_says():
    """To sinusoids whose fast half is silent, as training leaves it, up to a per cent; not before.

    And its derivative in time stays that of the slow half, at most some tens.
    """
    torch.manual_seed(3)
    old, new = (UNet(1, 1, **{**SMALL, "time_embedding": word})
                for word in ("sinusoidal", "smooth"))  # fmt: skip
    fast = 16 * torch.arange(2).repeat_interleave(10)[:, None] + torch.arange(10)
    with torch.no_grad():
        old.time_embed[0].weight[:, fast.flatten()] = 0
    t = torch.linspace(0.02, 0.98, 99, dtype=torch.float64)
    wanted, built = old.embed(t, None), new.embed(t, None)
    refit_time_embedding(new, old)
    fitted = new.embed(t, None)
    spread = wanted.var(0).sum()
    assert (fitted - wanted).square().mean(0).sum() < 0.01 * spread
    assert (built - wanted).square().mean(0).sum() > spread
    _, rate = torch.func.jvp(lambda t: new.embed(t, None), (t,), (torch.ones_like(t),))
    assert rate.abs().max() < 50
