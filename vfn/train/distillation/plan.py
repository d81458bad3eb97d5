"""What is to be distilled: the configuration of the whole, of each stage, and what does not fit."""

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vfn import configs
from vfn.configs import Config, DistillConfig, SampleConfig
from vfn.files import few, shortened
from vfn.model import check_guidance
from vfn.nn import NETWORKS
from vfn.nn.conditioning import Conditioned
from vfn.ops import OBJECTIVES
from vfn.runs import Checkpoint
from vfn.tables import outside
from vfn.train.alike import FREE, differing, of_condition
from vfn.train.distillation.methods import METHODS, MethodEntry, method_of, trains_auxiliary


def stages_of(plan: Config) -> dict[int, Config]:
    """The configurations of a distillation's stages, in order, by their students' steps.

    Args:
        plan: the configuration of the whole.

    Returns:
        configurations of runs.

    Raises:
        ValueError: if there is no such method, or one of somebody else fails, or gives no stages of
            different steps.

    >>> list(stages_of(Config(distill=DistillConfig(teacher_steps=16, student_steps=2))))
    [8, 4, 2]
    """
    word, method = plan.distill.method, method_of(plan)
    with outside(f"method {word} fails"):
        steps = [(stage.distill.student_steps, stage) for stage in method.stages(plan)]
    stages = dict(steps)
    if not stages or len(stages) < len(steps):
        raise ValueError(
            f"expected method {word} to have stages of different student_steps, got "
            f"{few((str(number) for number, _ in steps)) or 'none'}"
        )
    return stages


def halvings(settings: DistillConfig) -> list[int]:
    """The students' numbers of steps, in order.

    Args:
        settings: from how many steps to how many.

    Returns:
        numbers of steps, each half of the one before.

    >>> halvings(DistillConfig(teacher_steps=16, student_steps=2))
    [8, 4, 2]
    """
    steps = [settings.teacher_steps // 2]
    while steps[-1] > settings.student_steps:
        steps.append(steps[-1] // 2)
    return steps


def student_sample(
    plan: Config, steps: int, sampler: str, times: tuple[float, ...] | None = None
) -> SampleConfig:
    """How a student is sampled by default: in its steps, and guided only as an input of its own.

    Args:
        plan: the configuration of the whole.
        steps: of the student.
        sampler: that it learns the steps of.
        times: where its steps begin; those of the sampler's grid if None.

    Returns:
        settings of sampling, all others their defaults.

    >>> plan = Config(sample=SampleConfig(guidance=0.5, sample_batch=50))
    >>> found = student_sample(plan, 2, "ddim")
    >>> found.sample_timesteps, found.sample_batch, found.guidance
    (2, 50, 0.0)
    """
    return SampleConfig(
        sampler=sampler,
        sample_timesteps=steps,
        times=times,
        sample_batch=plan.sample.sample_batch,
        guidance=plan.sample.guidance if plan.model.guidance_range else 0.0,
    )


def stage_config(plan: Config, student_steps: int) -> Config:
    """The configuration of one halving; what it trains is sampled with by default.

    Args:
        plan: the configuration of the whole.
        student_steps: of the halving's student.

    Returns:
        the configuration of a run.

    >>> plan = Config(distill=DistillConfig(teacher_steps=8, teacher_guidance=0.5))
    >>> stage = stage_config(plan, 2)
    >>> stage.sample.sample_timesteps, stage.diffusion.train_timesteps
    (2, 2)
    >>> stage_config(plan, 4).distill.teacher_guidance, stage.distill.teacher_guidance
    (0.5, 0.0)
    """
    distill = plan.distill
    first = 2 * student_steps == distill.teacher_steps
    updates = (
        (first and distill.first_steps)
        or (student_steps <= 2 and distill.last_steps)
        or plan.train.steps
    )
    return replace(
        plan,
        diffusion=replace(plan.diffusion, train_timesteps=student_steps),
        train=replace(plan.train, steps=updates),
        # Of all samplers a student knows the steps of this one alone.
        sample=student_sample(plan, student_steps, "ddim"),
        distill=replace(
            distill,
            teacher_steps=2 * student_steps,
            student_steps=student_steps,
            # The second teacher has the guidance in it.
            teacher_guidance=distill.teacher_guidance if first else 0.0,
            teacher_guidance_interval=distill.teacher_guidance_interval if first else None,
            teacher_guidance_rescale=distill.teacher_guidance_rescale if first else None,
            teacher_guide_with=distill.teacher_guide_with if first else None,
            teacher_guide_weight=distill.teacher_guide_weight if first else None,
        ),
    )


def plan_of(teacher: Checkpoint, name: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a distillation.

    Args:
        teacher: data, network and diffusion are its own where nothing else is said.
        name: a preset's name or a .toml file.
        overrides: fields by name.

    Returns:
        Config.

    Raises:
        ValueError: for what is no distillation, or not of this teacher.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> plan = plan_of(new, "digits_distill", {"student_steps": 4})
    >>> plan.distill.teacher_steps, plan.distill.student_steps
    (64, 4)
    """
    own, text = teacher.config, configs.read(name)
    word = _method_asked(text, overrides)
    method = METHODS.find(word)
    _check_says_flow(own, word)
    model = replace(own.model, dropout=0.0, guidance_range=None)
    diffusion = replace(own.diffusion, objective="diffusion", objective_options={})
    free = FREE
    if _learns_paths(method):
        _check_predicts_velocity(own, word)
        diffusion = replace(diffusion, train_timesteps=0, loss_type="mse")
        free = FREE | {"loss_type"}
    base = Config(data=own.data, model=model, diffusion=diffusion)
    config = configs.loads(text, name, base)
    if method.objective is not None:
        overrides = {"objective": method.objective, **overrides}
    config = _with_method(configs.override(config, dict(overrides)), name, overrides)
    config = _with_limits(_with_weaker(_with_guidance(config, own), own), own)
    alike, theirs = replace(config.model, guidance_range=own.model.guidance_range), own.model
    if _differentiates_in_time(config):  # `_with_method` has looked at it
        alike, theirs = alike.seeing_time("smooth"), theirs.seeing_time("smooth")
    _check_own_times(config, own)
    faults = differing(alike, theirs)
    faults += differing(config.diffusion, own.diffusion, free) + of_condition(config, own)
    if own.distill.asked:
        faults += _faults_of_a_student(config, own)
    if faults:
        raise ValueError(f"expected the teacher's {few(faults, 20, 300, '; ')}")
    if config.diffusion.learned_weight and trains_auxiliary(config):
        raise ValueError(
            f"method {config.distill.method} has two networks with losses of their own, which a "
            "learned weight cannot balance; give --learned-weight false"
        )
    _check_its_guidance(config, teacher)
    return config


def _method_asked(text: str, overrides: Mapping[str, Any]) -> str:
    """The word of the method, which decides what the rest of a configuration is checked against.

    Returns:
        the word that is given; the default where the text does not say it or cannot be read, which
        whoever reads all of it refuses.
    """
    section: Any = None
    with suppress(ValueError, RecursionError):
        section = tomllib.loads(text).get("distill")
    said = section.get("method") if isinstance(section, dict) else None
    word: str = overrides.get("method", said if isinstance(said, str) else DistillConfig.method)
    return word


def _learns_paths(method: MethodEntry) -> bool:
    """Whether students learn of the teacher's paths at all times, and not of steps on a grid."""
    return method.objective is not None and OBJECTIVES.find(method.objective).learn is not None


def _check_says_flow(theirs: Config, method: str) -> None:
    """Refuse a teacher that says something else than where the flow leads, or on its grid alone.

    Raises:
        ValueError: if it does.
    """
    word, distill = theirs.diffusion.objective, theirs.distill
    if distill.asked:
        if method != distill.method or not distill.teacher_steps:
            raise ValueError(
                f"expected the teacher's own velocity, which a student of method {distill.method} "
                "no longer says; distill what taught it"
            )
    elif not OBJECTIVES.find(word).flow:
        raise ValueError(
            f"expected a teacher whose velocity is that of the flow, got one of objective {word}; "
            "name another, or train this one on with vfn train --init-from"
        )


def _check_predicts_velocity(theirs: Config, method: str) -> None:
    """Refuse a teacher whose students could not learn of paths, for what else they predict.

    Raises:
        ValueError: if it predicts two things.
    """
    diffusion = theirs.diffusion
    if diffusion.learned_variance:
        wanted = "without learned_variance"
    elif diffusion.model_out_type == "both":
        wanted = "whose model_out_type is not both"
    else:
        return
    raise ValueError(
        f"expected a teacher {wanted} for method {method}; give another, or --method progressive "
        "or moment_matching"
    )


def _with_method(config: Config, name: str, overrides: Mapping[str, Any]) -> Config:
    """The parameters of the method, and the embedding of time that its students need.

    Returns:
        the configuration with them.

    Raises:
        ValueError: for steps of a teacher where there are none or the other way round, another
            objective than the method's, parameters that it does not take, or an embedding of time
            that cannot be differentiated.
    """
    word, given = config.distill.method, config.distill.method_options
    entry = METHODS.find(word)
    if entry.objective is None:
        if not config.distill.teacher_steps:
            raise ValueError(
                f"{name} does not say how many steps the teacher takes: --teacher-steps"
            )
        options = entry.filled(f"method {word}", lambda: None, given) if given else {}
        return replace(config, distill=replace(config.distill, method_options=options))
    if config.distill.teacher_steps:
        raise ValueError(
            f"method {word} takes no steps of the teacher, got teacher_steps "
            f"{config.distill.teacher_steps}; leave it out, or use --config {entry.preset}"
        )
    for setting in ("first_steps", "last_steps"):
        if updates := getattr(config.distill, setting):
            raise ValueError(
                f"method {word} is one run, without halvings, got {setting} {updates}; leave it "
                "out, and give --steps"
            )
    if config.diffusion.objective != entry.objective:
        raise ValueError(
            f"method {word} teaches the objective {entry.objective}, got "
            f"{config.diffusion.objective}; leave it out"
        )
    options = entry.filled(f"method {word}", lambda: None, given)
    if "regress_updates" in options:
        options["regress_updates"] = int(options["regress_updates"])
    config = replace(config, distill=replace(config.distill, method_options=options))
    if not _differentiates_in_time(config):
        return config
    if overrides.get("time_embedding", "smooth") != "smooth":
        raise ValueError(
            f"method {word} differentiates the network in time, where sinusoids of 1000 t explode; "
            "leave out --time-embedding: students get a smooth one"
        )
    return replace(config, model=config.model.seeing_time("smooth"))


def _check_own_times(config: Config, own: Config) -> None:
    """Refuse times of training where students choose theirs; those of the teacher are its own."""
    asked = config.diffusion.train_timesteps
    if METHODS.find(config.distill.method).own_times and asked != own.diffusion.train_timesteps:
        raise ValueError(
            f"with method {config.distill.method} each student is trained at its own steps' times, "
            f"got train_timesteps {asked}; leave it out"
        )


def _differentiates_in_time(config: Config) -> bool:
    """Whether a method differentiates in time a network whose embedding of it can be chosen."""
    objective = METHODS.find(config.distill.method).objective
    if objective is None or not OBJECTIVES.find(objective).smooth:
        return False
    network = NETWORKS.find(config.model.network).load()
    return isinstance(network, type) and issubclass(network, Conditioned)


def _with_guidance(config: Config, own: Config) -> Config:
    """What the students learn of guidance where only the teacher says it: its weight or range.

    Students of a range are sampled at the teacher's weight, or the nearest one that they know.

    Returns:
        the configuration with it.
    """
    span = config.model.guidance_range or own.model.guidance_range
    if span is None:
        weight = config.distill.teacher_guidance
        weight = own.sample.guidance if weight is None else weight
        return replace(config, distill=replace(config.distill, teacher_guidance=weight))
    weight = min(max(own.sample.guidance, span[0]), span[1])
    model = replace(config.model, guidance_range=span)
    return replace(config, model=model, sample=replace(config.sample, guidance=weight))


def _with_weaker(config: Config, own: Config) -> Config:
    """What the teacher is led away from, where only the teacher says it: its weaker network.

    Returns:
        the configuration with it; without one where the weight is 0.

    Raises:
        ValueError: for a weight of nothing, or a method that knows no such teacher.
    """
    asked, weight = config.distill.teacher_guide_with, config.distill.teacher_guide_weight
    guide = own.sample.guide_with if asked is None else asked
    if guide is None and weight:
        raise ValueError(
            f"teacher_guide_weight {weight:g} goes with a weaker network; name one with "
            "--guide-with, or leave it out"
        )
    if weight is None:
        weight = own.sample.guide_weight if asked is None else SampleConfig().guide_weight
    guided = guide is not None and weight > 0
    if guided and not method_of(config).takes_weak:
        raise ValueError(
            f"method {config.distill.method} knows no teacher that is led away from a weaker "
            "network; leave out --guide-with, or give --guide-weight 0"
        )
    if not guided:  # a weight of 0 stays: whoever goes on takes none from the teacher either
        guide, weight = None, None if guide is None else 0.0
    distill = replace(config.distill, teacher_guide_with=guide, teacher_guide_weight=weight)
    return replace(config, distill=distill)


def _is_guided(config: Config) -> bool:
    """Whether a teacher is led away from anything."""
    distill = config.distill
    return bool(
        config.model.guidance_range or distill.teacher_guidance or distill.teacher_guide_with
    )


def _with_limits(config: Config, own: Config) -> Config:
    """What limits the teacher's guidance, where only the teacher says it.

    Returns:
        the configuration with it.

    Raises:
        ValueError: for limits of no guidance.
    """
    distill, sample = config.distill, own.sample
    found = {
        "teacher_guidance_interval": (distill.teacher_guidance_interval, sample.guidance_interval),
        "teacher_guidance_rescale": (distill.teacher_guidance_rescale, sample.guidance_rescale),
    }
    guided = _is_guided(config)
    for name, (asked, _) in found.items():
        if asked and not guided:
            given = f"{asked:g}" if isinstance(asked, float) else _span(asked)
            raise ValueError(
                f"{name} {given} goes with guidance of the teacher, and there is none; give "
                "--teacher-guidance, or leave it out"
            )
    # A rescale of 0 that nobody asked for is none, as in what was begun before there was any.
    chosen: dict[str, Any] = {
        name: (theirs or None) if asked is None else asked
        for name, (asked, theirs) in found.items()
    }
    return replace(config, distill=replace(distill, **(chosen if guided else dict.fromkeys(found))))


def _check_its_guidance(config: Config, teacher: Checkpoint) -> None:
    """Refuse guidance that the teacher cannot give."""
    own, distill, span = teacher.config, config.distill, config.model.guidance_range
    asked = SampleConfig(
        guidance=max(span or [distill.teacher_guidance or 0.0]),
        guidance_interval=distill.teacher_guidance_interval,
        guidance_rescale=distill.teacher_guidance_rescale or 0.0,
    )
    remedy = "leave out --guidance-range" if span else "use --teacher-guidance 0"
    check_guidance(asked, own, teacher.shape, own.model.guidance_range, remedy)


def left_out(plan: Config, own: Config) -> str:
    """What a teacher is sampled with and students do not learn, as a line; empty for nothing.

    Args:
        plan: the configuration of the distillation.
        own: the teacher's.

    Returns:
        the line.

    >>> own = configs.override(configs.load("digits"), {"guidance_rule": "zero_star"})
    >>> left_out(configs.override(own, {"teacher_guidance": 0.5}), own)
    'students learn the teacher without its guidance_rule zero_star'
    """
    sample, parts = own.sample, []
    if _is_guided(plan) and sample.guidance_rule != SampleConfig.guidance_rule:
        parts.append(f"guidance_rule {sample.guidance_rule}")
    if sample.zero_init:
        parts.append(f"zero_init {sample.zero_init}")
    return f"students learn the teacher without its {' and '.join(parts)}" if parts else ""


def _faults_of_a_student(ours: Config, theirs: Config) -> list[str]:
    """Where a student cannot teach what is asked of it: its steps and its guidance are fixed."""
    faults = []
    if ours.distill.teacher_steps != theirs.distill.student_steps:
        faults.append(
            f"teacher_steps {theirs.distill.student_steps}, the only grid this student knows, "
            f"got {ours.distill.teacher_steps}"
        )
    if ours.model.guidance_range != theirs.model.guidance_range:
        faults.append(
            f"guidance_range {_span(theirs.model.guidance_range)}, what this student learned, "
            f"got {_span(ours.model.guidance_range)}"
        )
    if ours.distill.teacher_guidance:
        faults.append(
            "teacher_guidance 0, since this student has its guidance in it, "
            f"got {ours.distill.teacher_guidance:g}"
        )
    if ours.distill.teacher_guide_with:
        faults.append(
            "teacher_guide_with unset, since this student has its guidance in it, "
            f"got {shortened(ours.distill.teacher_guide_with)}"
        )
    return faults


def _span(values: Sequence[float] | None) -> str:
    return "unset" if values is None else ",".join(f"{value:g}" for value in values)
