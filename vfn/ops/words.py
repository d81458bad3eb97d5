"""The closed sets of words, defined once for functions, configuration and command line.

Without torch, as help texts read them. Sets that can grow are tables: `vfn.ops.schedule_table`,
`solver_table`, `weightings`, `densities`, `guidance_rules` and `objective_table` beside it.
"""

from typing import Any, Literal, get_args

FARTHEST = 700.0  # of finite logsnr: exp(710) is no longer a float64
OutType = Literal["x0", "eps", "v", "u", "both"]
FixedVarType = Literal["fixed_small", "fixed_large", "fixed_medium"]
VarType = Literal["fixed_small", "fixed_large", "fixed_medium", "learned"]
Grid = Literal["time", "logsnr", "karras"]
LossType = Literal["mse", "kl"]
Ending = Literal["x0", "step"]
NormalCdf = Literal["tanh", "erf"]
PixelDecoder = Literal["categorical", "gaussian"]


def check_choice(value: object, choices: Any, name: str) -> None:
    """Refuse a word that is not among a Literal's.

    Raises:
        ValueError: it names those that are.
    """
    if value not in get_args(choices):
        valid = ", ".join(get_args(choices))
        raise ValueError(f"expected {name} to be one of {valid}, got {value!r}")
