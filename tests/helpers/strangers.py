"""Settings of a stranger that would run code, by their names in messages."""

TARGET = "of_a_stranger:run"
HIDDEN = "vfn.model:torch.hub.load"  # what a module of ours has imported
OURS = "vfn.interop.varied_unet:VariedUNet"
CODE = {
    "model.network": {"network": TARGET},
    "model.options": {"network": OURS, "options": {"names": (1, TARGET)}},
    "diffusion.logsnr_schedule": {"logsnr_schedule": HIDDEN},
    "diffusion.objective": {"objective": TARGET},
    "diffusion.reweight_type": {"reweight_type": TARGET},
    "diffusion.time_density": {"time_density": TARGET},
    "diffusion.time_options": {"time_density": "weighted", "time_options": {"weighting": TARGET}},
    "sample.sampler": {"sampler": TARGET},
    "sample.guidance_rule": {"guidance_rule": TARGET},
    "sample.guide_with": {"guide_with": "folder/other.safetensors"},
    "data.dataset": {"dataset": "vfn.files:shutil.rmtree"},
    "distill.method": {"method": TARGET},
}


def left_by_code(folder):
    """A module that is found from a folder, and leaves a file ``ran`` there when it is imported."""
    text = f"open({str(folder / 'ran')!r}, 'w').close()\n\n\ndef run(*_, **__): pass\n"
    (folder / "of_a_stranger.py").write_text(text)
