"""Files of ADM, improved-diffusion and consistency_models, beside their networks restated."""

import json
import math
import pickle

import pytest
import torch

from tests.helpers.adm import Adm
from vfn.interop import import_adm
from vfn.interop.adm import options_from_adm, params_from_adm, read_adm, with_dataset
from vfn.interop.adm_settings import FLAGS, PUBLISHED, adm_flags
from vfn.interop.adopted import built
from vfn.model import DataShape, build_model, schedule_of
from vfn.nn import with_params
from vfn.ops import OBJECTIVES
from vfn.sampling import load

SMALL = {"image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2",
         "attention_resolutions": "4"}  # fmt: skip
KINDS = {
    "improved-diffusion": {"learn_sigma": True, "diffusion_steps": 4000,
                           "noise_schedule": "cosine"},
    "improved-diffusion, its times not scaled": {
        "learn_sigma": True, "diffusion_steps": 4000, "rescale_timesteps": False,
    },
    "improved-diffusion, LSUN": {"num_heads": 1, "use_scale_shift_norm": False},
    "ADM": {"resblock_updown": True, "num_head_channels": 16, "learn_sigma": True,
            "class_cond": True, "attention_resolutions": "8,4"},
    "ADM at 64": {"resblock_updown": True, "num_head_channels": 16, "class_cond": True,
                  "use_new_attention_order": True},
    "two heads, three levels": {"channel_mult": "1,1,2", "num_heads": 2, "num_res_blocks": 2,
                                "attention_resolutions": "8,2"},
}  # fmt: skip


def random_network(flags):
    net = Adm(flags, classes=3 if flags["class_cond"] else 0).eval()
    for param in net.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return net


@pytest.fixture
def written(tmp_path):
    """A file and its flags, and the network in it."""

    def write(**more):
        flags = adm_flags({**SMALL, **more})
        net = random_network(flags)
        torch.save(net.state_dict(), tmp_path / "ema_0.9999_500000.pt")
        (tmp_path / "flags.json").write_text(json.dumps({**SMALL, **more}))
        return tmp_path / "ema_0.9999_500000.pt", tmp_path / "flags.json", net

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_the_same_function(written, kind):
    file, flags, theirs = written(**KINDS[kind])
    found = read_adm(file, flags)
    steps = found.config.diffusion.train_timesteps
    net = build_model(found.config, found.shape).eval()
    z, i = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    y = torch.tensor([0, 2]) if found.shape.legend.names else None
    with torch.no_grad():
        # As their wrapper asks it: steps are spread over a thousand, or are as they are.
        scaled = KINDS[kind].get("rescale_timesteps", True)
        expected = theirs(z, i * (1000 / steps if scaled else 1.0), y)
        ours = with_params(net, found.ema)(z, i.double() / steps, None if y is None else y + 1)
    assert expected.std() > 0.05
    prediction, expected_frac = expected[:, :3], expected[:, 3:]
    torch.testing.assert_close(ours[:, :3], prediction, rtol=0, atol=1e-5)
    if len(expected_frac[0]):
        frac = ((expected_frac + 1) / 2).clamp(1e-6, 1 - 1e-6)
        torch.testing.assert_close(torch.sigmoid(ours[:, 3:]), frac, rtol=0, atol=1e-5)


def test_in_double_precision_nothing_differs(written):
    """That the difference above is rounding."""
    file, flags, theirs = written(**KINDS["ADM"])
    found = read_adm(file, flags)
    net = build_model(found.config, found.shape).eval().double()
    params = {name: value.double() for name, value in found.ema.items()}
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double()(z, torch.tensor([123.0]), torch.tensor([1]))[:, :3]
        ours = with_params(net, params)(z, torch.tensor([0.123]).double(), torch.tensor([2]))
    # The time of ours came from float32.
    torch.testing.assert_close(ours[:, :3], expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        t = torch.tensor([0.123], dtype=torch.float64)
        ours = with_params(net, params)(z, t, torch.tensor([2]))
    torch.testing.assert_close(ours[:, :3], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["edm", "consistency"])
def test_networks_of_consistency_models(written, tmp_path, kind):
    more = {"resblock_updown": True, "num_head_channels": 16, "use_new_attention_order": True,
            "class_cond": True, "preconditioning": kind}  # fmt: skip
    file, flags, theirs = written(**more)
    import_adm(file, flags, tmp_path / "run")
    trained = load(tmp_path / "run", "cpu")
    sigma = torch.tensor([0.002, 0.7, 80.0], dtype=torch.float64)
    x, y = torch.randn(3, 3, 8, 8).double(), torch.tensor([0, 1, 2])
    x *= (1 + sigma.square()).sqrt().view(-1, 1, 1, 1)
    data, low = 0.5, 0.002 if kind == "consistency" else 0.0
    skip = data**2 / ((sigma - low) ** 2 + data**2)
    out = (sigma - low) * data / (sigma**2 + data**2).sqrt()
    into = 1 / (sigma**2 + data**2).sqrt()
    skip, out, into = (each.view(-1, 1, 1, 1) for each in (skip, out, into))
    with torch.no_grad():
        predicted = theirs((into * x).float(), 250 * sigma.log(), y)
        expected = (skip * x + out * predicted).clamp(-1, 1).float()
        z = (x / (1 + sigma**2).sqrt().view(-1, 1, 1, 1)).float()
        found = trained.denoiser(y + 1)(z, -2 * sigma.log())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # A consistency model says where paths end: it neither teaches nor guides.
    assert OBJECTIVES[trained.config.diffusion.objective].flow is (kind == "edm")
    drawn = trained.sample(2, steps=1, sampler="ddim")
    assert drawn.nfe == 1
    ends = schedule_of(trained.config.diffusion).logsnr(torch.tensor([0.0, 1.0]).double())
    assert ends.tolist() == pytest.approx([-2 * math.log(0.002), -2 * math.log(80)])


def test_a_run_of_it_is_sampled_and_goes_to_diffusers(written, tmp_path):
    pytest.importorskip("diffusers")
    from vfn.interop import export_diffusers, import_diffusers

    file, flags, _ = written(**KINDS["ADM at 64"])
    import_adm(file, flags, tmp_path / "run")
    trained = load(tmp_path / "run", "cpu")
    assert trained.shape.legend.names == ("0", "1", "2")
    assert trained.sample(3, steps=2).labels == ["0", "1", "2"]
    with pytest.raises(ValueError, match="needs a model trained with and without labels"):
        trained.sample(3, guidance=1.0)
    export_diffusers(tmp_path / "run", tmp_path / "theirs")
    import_diffusers(tmp_path / "theirs", None, tmp_path / "back")
    back = load(tmp_path / "back", "cpu")
    assert all(torch.equal(back.params[name], value) for name, value in trained.params.items())


def test_learned_variance_and_noise_levels(written, tmp_path):
    file, flags, _ = written(**KINDS["improved-diffusion"])
    import_adm(file, flags, tmp_path / "run")
    trained = load(tmp_path / "run", "cpu")
    drawn = trained.sample(2, steps=3, sampler="ancestral", var_type="learned")
    assert drawn.images.shape == (2, 3, 8, 8)
    # Nichol & Dhariwal, eq. 17, in the middle of 4,000 steps: after step i, t = (i+1)/4000.
    schedule = schedule_of(trained.config.diffusion)

    def angle(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha2 = angle(2000 / 4000) / angle(0)
    expected = math.log(alpha2 / (1 - alpha2))
    assert schedule.logsnr(1999 / 4000).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "fixed_large"),
        ({"sigma_small": True}, "fixed_small"),
        ({"learn_sigma": True}, "learned"),
        ({"learn_sigma": True, "sigma_small": True}, "learned"),
    ],
)
def test_variances_of_ancestral_steps(written, flags, expected):
    """As create_gaussian_diffusion of guided-diffusion reads these flags."""
    file, given, _ = written(**flags)
    config = read_adm(file, given).config
    assert config.sample.var_type == expected
    assert config.diffusion.learned_variance == (expected == "learned")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_can_be_built(name):
    """Their sizes, without their memory."""
    flags = adm_flags(name)
    with torch.device("meta"):
        theirs = Adm({**flags, "channel_mult": flags["channel_mult"] or widths(flags)},
                     classes=1000 if flags["class_cond"] else 0)  # fmt: skip
        options = options_from_adm(flags)
        channels = 3 * (1 + flags["learn_sigma"])
        ours = built({**options, "in_channels": 3, "out_channels": channels,
                       "num_classes": 1000 if flags["class_cond"] else 0})  # fmt: skip
    count = sum(param.numel() for param in ours.parameters())
    biases = ours.modulation.in_features if flags["class_cond"] else 0
    assert count - biases == sum(param.numel() for param in theirs.parameters())
    assert {*flags} == {*FLAGS}


def widths(flags):
    return {256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4", 32: "1,2,2,2"}[flags["image_size"]]


def test_sizes_that_the_papers_name():
    """Dhariwal & Nichol, table 4; Nichol & Dhariwal's 270M is rounded more."""
    millions = {"64x64_diffusion": 296,
                "128x128_diffusion": 422, "256x256_diffusion": 554}  # fmt: skip
    for name, expected in millions.items():
        flags = adm_flags(name)
        with torch.device("meta"):
            net = Adm({**flags, "channel_mult": flags["channel_mult"] or widths(flags)}, 1000)
        count = sum(param.numel() for param in net.parameters()) / 1e6
        assert count == pytest.approx(expected, abs=1.0), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 64}, "time_embed.0.weight gives"),
        ({"channel_mult": "0.5,1"}, "channel_mult to be whole numbers"),
        ({"channel_mult": ""}, "channel_mult to be whole numbers separated by commas, got ''"),
        ({"attention_resolutions": "8"}, "input_blocks.1.1.norm.weight is missing"),
        ({"class_cond": True}, "label_emb.weight of 1 to"),
        ({"learn_sigma": True}, "out.2.weight gives"),
        ({"num_heads_upsample": 3}, "as many heads on the way up"),
        ({"num_res_blocks": 10**9}, "256 blocks at most"),
        ({"noise_schedule": "exp"}, "noise_schedule 'exp'"),
        ({"image_size": 7}, "image_size to be a multiple of 2 a level"),
        ({"use_xformers": True}, "unknown flags use_xformers"),
        ({"dropout": 1.5}, "dropout 1.5"),
        ({"preconditioning": "edm", "learn_sigma": True}, "no learn_sigma with precond"),
    ],
)
def test_other_networks_are_refused(written, tmp_path, changes, message):
    file, flags, _ = written()
    flags.write_text(json.dumps({**SMALL, **changes}))
    with pytest.raises(ValueError, match=message) as refused:
        import_adm(file, flags, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


class Bomb:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), b"", b"PK\3\4", None])
def test_files_that_hold_code_or_nothing(written, tmp_path, capsys, content):
    file, flags, _ = written()
    if content is None:
        torch.save({"a": Bomb()}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="was not loaded|is damaged"):
        import_adm(file, flags, tmp_path / "run")
    assert capsys.readouterr().out == ""


def test_names_and_data_sets(written, tmp_path):
    file, flags, _ = written()
    with pytest.raises(ValueError, match="no published network is called 'ema_0.9999_500000'"):
        read_adm(file)
    with pytest.raises(ValueError, match="no published network is called 'mine'"):
        read_adm(file, "mine")
    named = file.rename(tmp_path / "lsun_cat.pt")
    with pytest.raises(ValueError, match="checkpoint of the network that the configuration"):
        read_adm(named, with_dataset(None, "cats/"))
    found = read_adm(named, with_dataset(flags, "cats/"))
    assert found.config.data.dataset == "cats/"
    assert found.shape == DataShape(3, 8, 8)
    torch.save([torch.zeros(2)], named)
    with pytest.raises(ValueError, match="expected parameters by name"):
        read_adm(named, flags)


def test_one_value_out_of_place_is_noticed(written):
    """Each parameter matters to the comparison above."""
    file, flags, theirs = written(**KINDS["two heads, three levels"])
    found = read_adm(file, flags)
    net = build_model(found.config, found.shape).eval()
    state = theirs.state_dict()
    z, t = torch.randn(1, 3, 8, 8), torch.tensor([0.3], dtype=torch.float64)
    with torch.no_grad():
        right = with_params(net, found.ema)(z, t)
        for name in ("middle_block.1.qkv.weight", "input_blocks.1.0.emb_layers.1.bias"):
            turned = {**state, name: state[name].flip(0)}
            other = with_params(net, params_from_adm(turned, net))(z, t)
            assert (right - other).abs().max() > 1e-3


def test_flags_of_others_run_no_code(written):
    file, flags, _ = written(dataset="of_a_stranger:Cats")
    with pytest.raises(ValueError, match=r"expected the data set in .*flags\.json to be a word"):
        read_adm(file, flags)
    file, flags, _ = written()
    found = read_adm(file, with_dataset(flags, "mine:Cats"))
    assert found.config.data.dataset == "mine:Cats"


def test_published_networks_of_one_kind_differ_in_what_their_flags_say():
    for name, dropout in (("lsun_horse", 0.1), ("lsun_horse_nodropout", 0.0)):
        assert adm_flags(name)["dropout"] == dropout
