"""What configurations of others may name."""

import pytest

from tests.helpers.strangers import CODE
from vfn.configs import Config, override
from vfn.configs.schema import OF_A_MACHINE
from vfn.interop import betas, varied_unet
from vfn.nn import NETWORKS
from vfn.runs.foreign import OURS, foreign_config, names_foreign_code
from vfn.tables import load_object

PARTS = [f"{module}:{name}" for module, names in OURS.items() for name in names]


def test_parts_of_ours_are_what_we_write():
    written = {betas.NAME, varied_unet.NAME, varied_unet.PRECONDITIONED}
    assert {*PARTS} == written | {entry.target for entry in NETWORKS.values()}
    for part in PARTS:
        assert callable(load_object(part))
        assert not names_foreign_code(part)


@pytest.mark.parametrize(
    "text",
    ["os:getcwd", "vfn.model:torch.hub.load", "vfn.files:shutil.rmtree", f"{PARTS[0]}.__init__",
     "vfn.nn:UNet", "vfn.runs:load_checkpoint"],
)  # fmt: skip
def test_all_else_is_code(text):
    assert names_foreign_code(text)


@pytest.mark.parametrize("text", ["digits", "downscale:4", "/pictures", "a/b:c", "hf://me/digits"])
def test_words_and_places_are_not(text):
    assert not names_foreign_code(text)


@pytest.mark.parametrize("setting", CODE)
def test_code_is_refused_wherever_it_stands(setting):
    config = override(Config(), CODE[setting])
    with pytest.raises(ValueError, match=f"of theirs, got {setting} .*; leave it") as refused:
        foreign_config(config, "a run of theirs", "leave it")
    assert "\n" not in str(refused.value)


def test_what_we_write_stays():
    given = {
        "network": varied_unet.NAME, "logsnr_schedule": betas.NAME, "guide_with": "hf://me/weak",
        "dataset": "/theirs/pictures", "condition": "/theirs/small",
    }  # fmt: skip
    config = override(Config(), given)
    assert foreign_config(config, "it", "leave it") == config
    step = override(Config(), {"guide_with": "800", "keep_at": (800,)})
    assert foreign_config(step, "it", "leave it") == step


def test_what_is_a_persons_own_does_not():
    theirs = {"data_dir": "/theirs", "num_workers": 99, "trackers": ("theirs:tracker",)}
    assert {*theirs} > {*OF_A_MACHINE}
    found = foreign_config(override(Config(), {**theirs, "lr": 0.5}), "it", "leave it")
    assert found == override(Config(), {"lr": 0.5})
