from .conditions import Conditions as Conditions
from .conditions import check_labels as check_labels
from .denoiser import branches_of as branches_of
from .denoiser import check_guidance_input as check_guidance_input
from .denoiser import denoiser as denoiser
from .denoiser import guidance_range as guidance_range
from .denoiser import no_conditions as no_conditions
from .denoiser import takes_second_time as takes_second_time
from .denoiser import with_params as with_params
from .dropout import dropout as dropout
from .dropout import keyed_dropout as keyed_dropout
from .network import NETWORKS as NETWORKS
from .network import Network as Network
from .refitting import refit_time_embedding as refit_time_embedding
from .transformer import Transformer as Transformer
from .uncertainty import Uncertainty as Uncertainty
from .unet import UNet as UNet
from .velocity import bare as bare
from .velocity import fixed_velocity as fixed_velocity
from .velocity import live_velocity as live_velocity

__all__ = [
    "NETWORKS",
    "Conditions",
    "Network",
    "Transformer",
    "UNet",
    "Uncertainty",
    "bare",
    "branches_of",
    "check_guidance_input",
    "check_labels",
    "denoiser",
    "dropout",
    "fixed_velocity",
    "guidance_range",
    "keyed_dropout",
    "live_velocity",
    "no_conditions",
    "refit_time_embedding",
    "takes_second_time",
    "with_params",
]
