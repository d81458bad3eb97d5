"""Networks, used as functions of their parameters."""

from vfn.nn.denoiser import check_guidance_input, denoiser, guidance_range, with_params
from vfn.nn.flax_layout import params_from_flax
from vfn.nn.importing import ReferenceImport, import_reference
from vfn.nn.labels import check_labels
from vfn.nn.reference import params_from_reference
from vfn.nn.unet import UNet

__all__ = [
    "ReferenceImport",
    "UNet",
    "check_guidance_input",
    "check_labels",
    "denoiser",
    "guidance_range",
    "import_reference",
    "params_from_flax",
    "params_from_reference",
    "with_params",
]
