from .adm import import_adm as import_adm
from .adm import params_from_adm as params_from_adm
from .diffusers_export import export_diffusers as export_diffusers
from .diffusers_import import import_diffusers as import_diffusers
from .diffusers_network import params_from_diffusers as params_from_diffusers
from .diffusers_network import params_to_diffusers as params_to_diffusers
from .edm import edm_denoiser as edm_denoiser
from .exports import EXPORTS as EXPORTS
from .exports import Export as Export
from .flax import params_from_flax as params_from_flax
from .flax_file import import_flax as import_flax
from .formats import FORMATS as FORMATS
from .formats import Format as Format
from .formats import importer as importer
from .formats import offering as offering
from .graph_export import export_onnx as export_onnx
from .graph_export import export_pt2 as export_pt2
from .hub_export import export_hub as export_hub
from .hub_export import push as push
from .reference_checkpoint import ReferenceImport as ReferenceImport
from .reference_checkpoint import import_reference as import_reference
from .reference_config import import_config as import_config
from .reference_config import left_out as left_out
from .reference_parameters import params_from_reference as params_from_reference
from .reference_run import import_checkpoint as import_checkpoint
from .reference_settings import with_dataset as with_dataset

__all__ = [
    "EXPORTS",
    "FORMATS",
    "Export",
    "Format",
    "ReferenceImport",
    "edm_denoiser",
    "export_diffusers",
    "export_hub",
    "export_onnx",
    "export_pt2",
    "import_adm",
    "import_checkpoint",
    "import_config",
    "import_diffusers",
    "import_flax",
    "import_reference",
    "importer",
    "left_out",
    "offering",
    "params_from_adm",
    "params_from_diffusers",
    "params_from_flax",
    "params_from_reference",
    "params_to_diffusers",
    "push",
    "with_dataset",
]
