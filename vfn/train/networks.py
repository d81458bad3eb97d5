"""Whether a network can be trained on some pictures: what is a user's own may fail in any way."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.configs import Config
from vfn.data import Dataset
from vfn.files import reason_of
from vfn.memory import in_memory, is_shortage, shortage
from vfn.model import DataShape, build_model, conditions_of, output_channels
from vfn.nn import guidance_range, keyed_dropout
from vfn.nn.conditioning import Conditioned
from vfn.objective import Objective, loss_of
from vfn.ops import OBJECTIVES
from vfn.tables import outside
from vfn.train.batches import draws_two_times, make_batch
from vfn.train.layout import SMALLER

NO_BUFFERS = (
    "and buffers are not in checkpoints; make it a parameter, nn.Parameter(..., "
    "requires_grad=False)"
)
TRIALS = 64  # of a network with chance in it: about the work of a step
_CAST = "; t is float64: cast it with t.to(z.dtype)"


class Trial(NamedTuple):
    """What a network is tried with: two pictures of its data, and what is given beside them."""

    inputs: list[Any]
    more: dict[str, Tensor]

    def __call__(self, model: nn.Module) -> Any:
        """What a network says of them."""
        return model(*self.inputs, **self.more)


def check_network(
    model: nn.Module, config: Config, dataset: Dataset, shape: DataShape, device: torch.device
) -> None:
    """Refuse a network that cannot be trained on these pictures.

    Args:
        model: the network, on the device; its parameters and buffers stay as they are.
        config: of the run.
        dataset: the pictures.
        shape: of them.
        device: where it is tried.

    Raises:
        ValueError: that says why.
    """
    name, known = config.model.network, guidance_range(model)
    if known is not None and config.model.guidance_range is None:
        raise ValueError(
            f"network {name} takes guidance as an input, which only a distillation teaches; "
            "give one without guidance_range"
        )
    params = dict(model.named_parameters())
    if not params or any(value.dtype != torch.float32 for value in params.values()):
        raise ValueError(f"expected network {name} to have parameters, all of them float32")
    for part, layer in model.named_modules():
        if getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"network {name} keeps running statistics in {part}, which are no parameters and "
                "not in checkpoints; use a normalisation without them, such as nn.GroupNorm"
            )
    labels = len(shape.legend.names)
    if getattr(model, "num_classes", labels) != labels:
        raise ValueError(
            f"network {name} knows {model.num_classes} labels, and the data set has {labels}; "
            "build it for as many, or set conditional to false for none"
        )
    word = config.diffusion.objective
    if isinstance(model, Conditioned) and not config.distill.asked:
        faults = OBJECTIVES.find(word).lacking(word, model.second_time, model.time_embedding)
        if faults:
            raise ValueError(f"network {name}: {'; '.join(faults)}")
    _check_buffers(model, config, shape)
    before = {key: value.clone() for key, value in model.named_buffers()}
    trial = trial_of(model, config, dataset, device)
    out, pictures = _tried(model, name, trial), len(trial.inputs[0])
    _check_output(out, name, (pictures, output_channels(config, shape), *shape.size[1:]))
    for key, value in model.named_buffers():
        if not torch.equal(value, before[key]):
            raise ValueError(
                f"network {name} changes its buffer {key} when it is called, {NO_BUFFERS}"
            )


def try_objective(
    objective: Objective,
    called: str,
    model: nn.Module,
    config: Config,
    dataset: Dataset,
    device: torch.device,
    takes_step: bool = False,
) -> None:
    """Try an objective of the user's on two pictures, which may fail in any way.

    Args:
        objective: loss of each picture.
        called: what messages call it.
        model: the network, on the device.
        config: of the run.
        dataset: its pictures.
        device: where it is tried.
        takes_step: see `make_batch`.

    Raises:
        ValueError: if it fails, or gives no loss of each picture.
    """
    span, second = guidance_range(model), draws_two_times(model, config, own=False)
    batch = make_batch(dataset, config, torch.arange(2), device, span, second, takes_step)
    with torch.random.fork_rng(_gpus(device)), outside(f"{called} fails"):
        loss_of(objective, model.eval(), batch, config.diffusion)


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def leaves_out(model: nn.Module, config: Config, dataset: Dataset, device: torch.device) -> bool:
    """Whether a network has parameters that its predictions do not depend on, always or at times.

    Processes that average gradients wait for those of all parameters unless they are told. One that
    draws numbers as it is trained, as for stochastic depth, is tried many times.

    Args:
        model: the network, on the device.
        config: of the run.
        dataset: its pictures.
        device: where it is tried.

    Returns:
        whether there is one.
    """
    params = [value for value in model.parameters() if value.requires_grad]
    gpus = _gpus(device)
    doing = in_memory("trying the network on 2 pictures", SMALLER)
    with doing, torch.random.fork_rng(gpus), torch.enable_grad():
        trial = trial_of(model, config, dataset, device)

        def missing() -> bool:
            out = trial(model)
            if not out.requires_grad:  # the first step says so
                return False
            found = torch.autograd.grad(out.sum(), params, allow_unused=True)
            return any(each is None for each in found)

        keys = torch.zeros(len(trial.inputs[0]), 2, dtype=torch.int32, device=device)
        model.eval()
        with keyed_dropout(keys):  # with which ours draw nothing
            found = missing()
            model.train()
            found = found or _at_times(missing, gpus)
    model.eval()
    return found


def _at_times(missing: Callable[[], bool], gpus: Sequence[torch.device]) -> bool:
    """Whether something is missing, of a network that draws numbers, in some of many trials."""
    before = _generators(gpus)
    if missing():
        return True
    chance = not all(map(torch.equal, before, _generators(gpus)))
    return chance and any(missing() for _ in range(TRIALS))


def _generators(gpus: Sequence[torch.device]) -> list[Tensor]:
    """The states of torch's generators."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]


def trial_of(model: nn.Module, config: Config, dataset: Dataset, device: torch.device) -> Trial:
    """What a network is tried with.

    Args:
        model: the network.
        config: of the run.
        dataset: its pictures.
        device: where they go.

    Returns:
        Trial.
    """
    known = guidance_range(model)
    z = dataset.values.to_unit(dataset.images[:2]).to(device)
    y = None if dataset.labels is None else dataset.labels[:2].to(device)
    inputs = [z, torch.full((len(z),), 0.5, dtype=torch.float64, device=device), y]
    if known is not None:
        inputs.append(z.new_full((len(z),), known[0]))
    rows, uniform = torch.arange(len(z)), torch.full((len(z), 4), 0.5, device=device)
    more = conditions_of(dataset, rows, z, config.data.condition, uniform)
    return Trial(inputs, more.keywords())


def _tried(model: nn.Module, name: str, trial: Trial) -> Any:
    """What a network says as it is evaluated; one with buffers is called as it is trained, too."""
    try:
        with torch.no_grad():
            out = trial(model.eval())
            if any(True for _ in model.buffers()):
                with torch.random.fork_rng([]):
                    trial(model.train())
                model.eval()
    except Exception as error:  # a network of the user's can fail in any way
        if is_shortage(error):
            raise ValueError(
                shortage(error, "trying the network on 2 pictures", SMALLER)
            ) from error
        said, told = "cannot be called as net(z, t, y) on", reason_of(error)
        if isinstance(error, ValueError):  # in words that are meant for people
            said, told = "refuses", told.removeprefix("ValueError: ")
        elif "double" in told.lower():  # as torch calls it
            told += _CAST
        raise ValueError(f"network {name} {said} the data's pictures: {told}") from error
    return out


def _check_output(out: Any, name: str, wanted: tuple[int, ...]) -> None:
    """Refuse what is no prediction of two pictures."""
    if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"expected network {name} to give {wanted} here, got {found}")
    if out.dtype != torch.float32:
        cast = _CAST if out.dtype == torch.float64 else ""
        raise ValueError(f"expected network {name} to give float32 here, got {out.dtype}{cast}")


def _sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.named_parameters()}


def _check_buffers(model: nn.Module, config: Config, shape: DataShape) -> None:
    """Refuse buffers that a network which is built again would not have."""
    own = dict(model.named_buffers())
    if not own:
        return
    try:
        with torch.random.fork_rng([]):
            again = build_model(config, shape)
            if _sizes(again) != _sizes(model):  # options of its own: load is given such a module
                own = dict(build_model(config, shape).named_buffers())
    except ValueError:  # of a class that cannot be imported; whoever loads it gives the module
        return
    others = dict(again.named_buffers())
    for key, value in own.items():
        if key not in others or not torch.equal(value.cpu(), others[key].cpu()):
            raise ValueError(
                f"network {config.model.network} has other values of its buffer {key} whenever it "
                f"is built, {NO_BUFFERS}"
            )
