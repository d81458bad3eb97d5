"""What has to be alike where a run or a distillation goes on, and of a student and its teacher."""

from collections.abc import Collection
from dataclasses import fields

from vfn.configs import Config
from vfn.configs.fields import Section
from vfn.data.given import alike_conditions

# What the parameters mean the same without: how they are trained, not what they say.
FREE = {"dropout", "checkpoint_activations", "reweight_type", "reweight_options", "learned_weight",
        "time_density", "time_options", "keep_expectation", "p_uncond", "train_timesteps",
        "student_steps", "first_steps", "last_steps", "objective", "objective_options",
        "method_options"}  # fmt: skip


def differing(ours: Section, theirs: Section, free: Collection[str] = FREE) -> list[str]:
    """Settings that have to be alike and are not, as parts of a message.

    Args:
        ours: what is asked for.
        theirs: the same section of what it has to be like.
        free: names of those that may differ.

    Returns:
        a text for each.

    >>> from vfn.configs import DistillConfig
    >>> differing(DistillConfig(teacher_steps=4), DistillConfig(teacher_steps=8))
    ['teacher_steps 8, got 4']
    """
    return [
        f"{f.name} {getattr(theirs, f.name)}, got {getattr(ours, f.name)}"
        for f in fields(ours)
        if f.name not in free and getattr(ours, f.name) != getattr(theirs, f.name)
    ]


def of_optimizer(config: Config, before: Config) -> list[str]:
    """Whether the optimizer is another one: moments of one mean nothing to the other.

    Args:
        config: what is asked for.
        before: what was begun.

    Returns:
        a text, or nothing.

    >>> from vfn.configs import override
    >>> of_optimizer(override(Config(), {"optimizer": "muon"}), Config())
    ['optimizer adamw, got muon']
    """
    free = {f.name for f in fields(config.train)} - {"optimizer"}
    return differing(config.train, before.train, free)


def of_condition(config: Config, before: Config) -> list[str]:
    """Whether what is made of the pictures as a condition is something else, for as many channels.

    Args:
        config: what is asked for.
        before: what it has to be like.

    Returns:
        a text, or nothing; files may have moved.

    >>> from vfn.configs import override
    >>> before = override(Config(), {"condition": "downscale:4"})
    >>> of_condition(override(Config(), {"condition": "mask"}), before)
    ['condition downscale:4, got mask']
    """
    ours, theirs = config.data.condition, before.data.condition
    return [] if alike_conditions(ours, theirs) else [f"condition {theirs}, got {ours}"]
