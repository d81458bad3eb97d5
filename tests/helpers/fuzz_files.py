"""Every format that is read from files, as a true example and what a person does with it."""

from tests.helpers.fuzz_data import cache, condition, labels, numbers, picture, pictures, tar
from tests.helpers.fuzz_foreign import adm, diffusers_folder, flax, reference, reference_checkpoint
from tests.helpers.fuzz_runs import (
    checkpoint,
    commands,
    config,
    exported,
    lock,
    log,
    metrics,
    samples,
    settings,
    stages,
    statistics,
    teachers,
)

FORMATS = {
    "log": log,
    "metrics": metrics,
    "settings": settings,
    "commands": commands,
    "stages": stages,
    "teachers": teachers,
    "lock": lock,
    "statistics": statistics,
    "reference": reference,
    "reference-checkpoint": reference_checkpoint,
    "config": config,
    "checkpoint": checkpoint,
    "exported": exported,
    "cache": cache,
    "pictures": pictures,
    "numbers": numbers,
    "tar": tar,
    "condition": condition,
    "labels": labels,
    "picture": picture,
    "samples": samples,
    "diffusers": diffusers_folder,
    "adm": adm,
    "flax": flax,
}
