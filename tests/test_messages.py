"""A message is one line that does not grow with the data, whoever asks for what cannot be done."""

import numpy as np
import pytest
import torch
from PIL import Image

from vfn import configs
from vfn.configs import DataConfig, ModelConfig
from vfn.data import Dataset, Labels, load_dataset, prepare
from vfn.evaluation import METRICS
from vfn.evaluation.extractors import PIXELS
from vfn.evaluation.needs import Planned, check_needs
from vfn.interop import import_config
from vfn.model import DataShape
from vfn.ops import loss_weight
from vfn.ops.solver_table import SOLVERS
from vfn.runs import check_fits, other_pictures
from vfn.sampling.trained import Trained
from vfn.tables import load_object
from vfn.train.session import TrainingData, _pictures

MANY = 5000
NAMES = tuple(f"class number {i}" for i in range(MANY))
OTHERS = tuple(f"another number {i}" for i in range(MANY))
IMAGES = torch.zeros(MANY, 1, 2, 2, dtype=torch.uint8)
NUMBERS = torch.arange(MANY) + 1
ONE, OTHER = (Dataset(IMAGES, NUMBERS, Labels(names)) for names in (NAMES, OTHERS))
LONG = "x" * MANY


def raising(check):
    def wrapped():
        raise ValueError(check())

    return wrapped


REFUSALS = {
    "classes of others": lambda: check_needs(
        {"agreement": METRICS["agreement"]}, Planned(ONE, OTHER, OTHER, PIXELS)
    ),
    "an unknown label": lambda: ONE.legend.parse(LONG),
    "other classes": raising(lambda: other_pictures(ONE, DataShape(1, 2, 2, OTHER.legend), None)),
    "other held-out pictures": lambda: _pictures(configs.Config(), TrainingData(ONE, OTHER)),
    "parameters": lambda: check_fits(
        dict.fromkeys(NAMES, torch.zeros(1)), dict.fromkeys(OTHERS, torch.zeros(1))
    ),
    "sections": lambda: configs.loads("\n".join(f"[{name.replace(' ', '-')}]" for name in NAMES)),
    "keys": lambda: configs.loads(
        "[train]\n" + "\n".join(f'"{name}" = 1' for name in (*NAMES, LONG))
    ),
    "no TOML": lambda: configs.loads(f"a.{LONG} = 1\na.{LONG} = 1"),
    "a value": lambda: configs.loads(f'[train]\nsteps = "{LONG}"'),
    "a list": lambda: configs.loads(f"[data]\nimage_size = [{'1,' * MANY}]"),
    "settings": lambda: configs.override(configs.Config(), dict.fromkeys(NAMES, 1)),
    "options": lambda: ModelConfig(options=dict.fromkeys(NAMES, 1)),
    "options of a value": lambda: ModelConfig(
        network="a:B", options={LONG: [{}], **dict.fromkeys(NAMES, None)}
    ),
    "options of the reference": lambda: import_config({"train": dict.fromkeys(NAMES, 1)}),
    "a data set of the reference": lambda: import_config({"data": {"name": LONG}}),
    "a word": lambda: SOLVERS.find(LONG),
    "a name": lambda: load_object(LONG),
    "a weighting": lambda: loss_weight(0.0, "snr", **dict.fromkeys(NAMES, 1.0)),
    "a data set": lambda: load_dataset(LONG[:200]),
    "a setting of sampling": lambda: Trained.settings(_Any(), **{LONG: 1}),
}


class _Any:
    config = configs.Config()


@pytest.mark.parametrize("name", REFUSALS)
def test_messages_do_not_grow(name):
    with pytest.raises(ValueError, match=".") as refused:
        REFUSALS[name]()
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 2000


def test_nor_do_those_about_files(tmp_path):
    for i in range(300):
        Image.new("L", (2, 2 + i % 2)).save(tmp_path / f"picture number {i}.png")
    with pytest.raises(ValueError, match="150 of 300 pictures") as refused:
        load_dataset(DataConfig(dataset=str(tmp_path), data_dir=str(tmp_path / "data")))
    assert len(str(refused.value)) < 1000 + len(str(tmp_path))


def test_nor_do_summaries(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=IMAGES[:, 0].numpy(), arr_1=NUMBERS.numpy())
    settings = DataConfig(dataset=str(tmp_path / "a.npz"), data_dir=str(tmp_path))
    assert len(prepare(settings).summary()) < 1000
