"""JSON configurations of the reference implementation: its defaults, its names, its mistakes."""

import json

import pytest

from vfn.interop.reference_settings import (
    read_json,
    reference_settings,
    unet_options,
    with_dataset,
)


def test_what_is_left_out_or_null_comes_from_its_defaults():
    settings = reference_settings({"train": {"lr": None, "epochs": 3}, "model": {"head_dim": 64}})
    assert settings["train"]["lr"] == 2e-4
    assert settings["train"]["epochs"] == 3
    assert (settings["model"]["num_heads"], settings["model"]["head_dim"]) == (1, 64)
    assert settings["diffusion"]["logsnr_schedule"] == "legacy"
    assert settings["data"]["name"] == "cifar10"


def test_early_files_have_other_names_and_defaults():
    early = {
        "train": {"lr": 1e-4},
        "denoise": {"in_channels": 3, "head_dim": 64},
        "diffusion": {"model_out_type": "x_0"},
        "use_ema": True,
    }
    settings = reference_settings(early)
    assert (settings["model"]["num_heads"], settings["model"]["head_dim"]) == (None, 64)
    assert settings["model"]["drop_rate"] == 0.0
    assert settings["diffusion"]["logsnr_schedule"] == "cosine"
    assert settings["diffusion"]["model_out_type"] == "x0"
    assert settings["train"]["use_ema"] is True
    assert reference_settings({"denoise": {}})["train"]["use_ema"] is False
    assert "denoise" in early


@pytest.mark.parametrize(
    ("old", "new"), [("snr_trunc", "truncated_snr"), ("snr_1plus", "alpha2"), ("snr", "snr")]
)
def test_old_names_of_weightings(old, new):
    settings = reference_settings({"diffusion": {"reweight_type": old}})
    assert settings["diffusion"]["reweight_type"] == new


def test_a_saved_configuration_with_its_command_line():
    saved = {"source": "somewhere", "args": {"use_ddim": True, "num_accum": 4, "eval_intv": 128}}
    assert reference_settings(saved)["args"] == {"use_ddim": True, "num_accum": 4}


def test_a_file_is_its_content(tmp_path):
    content = {"data": {"name": "mnist"}}
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "c.json") == content
    assert reference_settings(str(tmp_path / "c.json")) == reference_settings(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": {}}, "unknown section modle"),
        ({"model": {"num_head": 2}}, "unknown option model.num_head"),
        ({"model": {"num_classes": 10}}, "unknown option model.num_classes"),
        ({"model": 3}, "expected section model to be a JSON object, got 3"),
        (
            {"model": {"hid_channels": "64"}},
            "model.hid_channels to be a positive integer, got '64'",
        ),
        ({"model": {"head_dim": 0}}, "model.head_dim to be a positive integer, got 0"),
        ({"model": {"ch_multipliers": [1, 0]}}, "to be a list of positive integers, got .*0"),
        ({"model": {"apply_attn": [1, 0]}}, "to be true, false, or a list of them, got .*1, 0"),
        ({"train": {"lr": True}}, "expected train.lr to be float, got True"),
        ({"train": {"warmup": 1.5}}, "expected train.warmup to be int, got 1.5"),
        ({"conditional": {"use_cfg": 1}}, "expected conditional.use_cfg to be bool, got 1"),
        ({"two\nlines": {}}, r"unknown section two\\nlines"),
        ({"model": {"two\nlines": 1}}, r"unknown option model.two\\nlines"),
        ({"train": {"epochs": 10**400}}, "train.epochs to be int, got 1000*[.]{3}$"),
        ({"train": {"a": 1}, "model": {"b": 2}}, "unknown option train.a; unknown option model.b"),
    ],
)
def test_mistakes_are_named(content, message):
    with pytest.raises(ValueError, match=message):
        reference_settings(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "expected a JSON object in .*, got list"),
        (b"\xff", "JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, message):
    path = tmp_path / "c.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        reference_settings(path)
    with pytest.raises(ValueError, match="no.json cannot be read: No such file"):
        reference_settings(tmp_path / "no.json")


def test_another_data_set(tmp_path):
    source = {"data": {"root": "/", "name": "mnist"}, "train": {}}
    assert with_dataset(source, None) is source
    assert with_dataset(source, "celeba") == {"data": {"root": "/", "name": "celeba"}, "train": {}}
    assert source["data"]["name"] == "mnist"
    (tmp_path / "c.json").write_text('{"data": null}')
    assert with_dataset(tmp_path / "c.json", "celeba") == {"data": {"name": "celeba"}}
    with pytest.raises(ValueError, match="expected section data to be a JSON object, got 3"):
        with_dataset({"data": 3}, "celeba")


def test_channels_of_the_network():
    assert unet_options(reference_settings({}))["out_channels"] == 3
    both = {"diffusion": {"model_out_type": "both"}, "model": {"in_channels": 1}}
    assert unet_options(reference_settings(both))["out_channels"] == 2
    given = {"model": {"out_channels": 5}}
    assert unet_options(reference_settings(given))["out_channels"] == 5
