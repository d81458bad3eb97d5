"""The words that name choices, defined once for functions, configuration and command line."""

from typing import Any, Literal, get_args

Schedule = Literal["cosine", "linear", "sigmoid", "legacy"]
OutType = Literal["x0", "eps", "v", "both"]
FixedVarType = Literal["fixed_small", "fixed_large", "fixed_medium"]
VarType = Literal["fixed_small", "fixed_large", "fixed_medium", "learned"]
Sampler = Literal[
    "ddim",
    "ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "unipc",
    "ab2",
    "abm2",
    "adaptive",
]
Grid = Literal["time", "logsnr", "karras"]
LossType = Literal["mse", "kl"]
Ending = Literal["x0", "step"]
Reweight = Literal["constant", "snr", "truncated_snr", "alpha2", "min_snr", "p2", "sigmoid", "edm"]


def check_choice(value: object, choices: Any, name: str) -> None:
    """Refuse a word that is not among a Literal's, naming those that are."""
    if value not in get_args(choices):
        valid = ", ".join(get_args(choices))
        raise ValueError(f"expected {name} to be one of {valid}, got {value!r}")
