# %% [markdown]
# # The math by hand
#
# Everything a diffusion model does, in two dimensions, with nothing to train: for a mixture of
# Gaussians the best possible denoiser is a formula. What is left are the schedule, the flow, the
# solvers and the likelihood, each a function of `vfn.ops`.

# %% tags=["parameters"]
POINTS = 2000  # drawn
LINES = 24  # of the flow, in the picture

# %%
import matplotlib.pyplot as plt
import torch

from vfn import ops

angles = torch.arange(5, dtype=torch.float64) * 2 * torch.pi / 5
MEANS = 0.7 * torch.stack([angles.cos(), angles.sin()], dim=1)
STD = 0.08

# %% [markdown]
# ## The denoiser
#
# Noisy data are `z = alpha x0 + sigma eps`. Of a mixture each component stays Gaussian, so the
# mean of what x0 may have been is an average over components, each weighted by how likely it made
# z.


# %%
def denoise(z, logsnr):
    alpha, sigma = (scale.view(-1, 1, 1).to(z.dtype) for scale in ops.alpha_sigma(logsnr))
    variance = alpha**2 * STD**2 + sigma**2  # of z in each component
    away = z[:, None] - alpha * MEANS
    share = torch.softmax(-0.5 * (away**2 / variance).sum(-1), dim=1)
    each = MEANS + alpha * STD**2 / variance * away  # what x0 was, if it was that component
    return (share[..., None] * each).sum(1)


# %% [markdown]
# ## From noise to data
#
# A grid of noise levels from pure noise to data, and a solver that goes over it. `callback` sees
# every state on the way, which makes the lines of the picture: from a normal cloud, on the right,
# to five places.

# %%
schedule = ops.logsnr_schedule("cosine")
grid = ops.sampling_grid("time", schedule, 64)
noise = ops.keyed_normal(0, 0, torch.arange(POINTS), (2,), torch.float64)
states = []
drawn = ops.sampler("abm2")(denoise, noise, grid, callback=lambda i, z, x0: states.append(z))
path = torch.stack([*states, drawn.x0])

figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), sharex=True, sharey=True, layout="constrained")
for line in path[:, :LINES].unbind(1):
    axes[0].plot(*line.T, color="C0", lw=0.8)
axes[0].plot(*path[0, :LINES].T, ".", color="C1")
axes[0].set_title("the flow: noise (orange) to data")
axes[1].plot(*drawn.x0.T, ".", ms=2)
axes[1].set_title(f"{POINTS} draws, {drawn.nfe} evaluations each")
for each in axes:
    each.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# ## Solvers
#
# All solvers follow the same flow; they differ in how far from it they are after so many
# evaluations of the denoiser. A very fine grid stands for the exact flow.

# %%
exact = ops.sampler("abm2")(denoise, noise, ops.sampling_grid("time", schedule, 2000)).x0
budgets = [4, 8, 16, 32, 64]
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for word in ("ddim", "dpmpp_2m", "unipc", "abm2"):
    errors = []
    for budget in budgets:
        x0 = ops.sampler(word)(denoise, noise, ops.sampling_grid("time", schedule, budget)).x0
        errors.append((x0 - exact).square().mean().sqrt().item())
    axes.loglog(budgets, errors, "o-", label=word)
axes.set(xlabel="evaluations of the denoiser", ylabel="root mean square error")
axes.set_xticks(budgets, budgets)
axes.minorticks_off()
axes.legend(frameon=False)
print(f"abm2 at 16 evaluations is {errors[2]:.1e} away from the exact flow")

# %% [markdown]
# ## Likelihood
#
# Following the flow backwards gives a density: that of the noise at the end of the line, times how
# the flow compressed space on the way. In two dimensions two probes give the trace exactly, and
# the density of a mixture is known.

# %%
fine = ops.sampling_grid("logsnr", schedule, 256)
some = drawn.x0[:200]
axis_probes = torch.eye(2, dtype=torch.float64)[:, None].expand(2, len(some), 2) * 2**0.5
found = ops.flow_loglik(denoise, some, fine, axis_probes).loglik.mean(0)
parts = torch.distributions.Normal(MEANS, STD).log_prob(some[:, None]).sum(-1)
known = parts.logsumexp(1) - torch.tensor(5.0).log()
print(f"largest difference of the log-likelihood: {(found - known).abs().max():.3f} nats")

# %% [markdown]
# The same functions take a trained network in place of `denoise`:
# `vfn.load("runs/digits").denoiser()` is one. [Train digits from Python](digits.md) makes that
# run.
