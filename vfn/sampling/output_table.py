"""The formats that sampled pictures are written in; this module does not import torch."""

from vfn.tables import Entry, Table

# The class behind an entry is called with the folder and the number of pictures.
OUTPUTS: Table[Entry] = Table(
    "format",
    {
        "png": Entry(
            text="a PNG for each picture, and labels.csv", target="vfn.sampling.output:PngFolder"
        ),
        "npz": Entry(
            text="one samples.npz, as ADM's evaluator reads it",
            target="vfn.sampling.output:NpzFile",
        ),
        "npy": Entry(
            text="one samples.npy, which can be mapped to memory",
            target="vfn.sampling.output:NpyFile",
        ),
        "tiff": Entry(
            text="a TIFF for each picture, of any numbers and channels, and labels.csv",
            target="vfn.sampling.output:TiffFolder",
        ),
        "safetensors": Entry(
            text="one samples.safetensors of images and labels",
            target="vfn.sampling.output:SafetensorsFile",
        ),
    },
    lambda name: Entry(text=name, target=name),
)
