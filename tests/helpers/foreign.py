"""UNets under other implementations' names, as plain functions of random parameters.

They share no code with `vfn.nn`: an oracle for imports, and a source of checkpoints.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


class Foreign:
    """A UNet that makes its parameters when it first asks for them, and remembers them.

    Subclasses name the layers and lay out the numbers. ``resample_attends``: blocks that change the
    resolution have attention; ``shift_first``: the shift comes before the scale.
    """

    resample_attends = shift_first = True
    first, last_norm, last, times = "", "", "", ("", "")
    skip = fc = ""
    separator = "."

    def __init__(self, multipliers=(1, 2), blocks=1, attends=(False, True), heads=1, dim=None,
                 out=3, labels=0, plain=False, hid=32, embedding=128):  # fmt: skip
        self.widths, self.blocks, self.attends = [hid * m for m in multipliers], blocks, attends
        self.heads, self.dim, self.out, self.labels = heads, dim, out, labels
        self.plain, self.hid, self.embedding = plain, hid, embedding
        self.state, self.random = {}, torch.Generator().manual_seed(0)

    def param(self, name, *shape, fan_in=None):
        """Normal numbers; weights of a variance that keeps the activations' size."""
        if name not in self.state:
            scale = 0.1 if fan_in is None else 1 / math.sqrt(fan_in)
            self.state[name] = torch.randn(*shape, generator=self.random) * scale
        assert self.state[name].shape == torch.Size(shape)
        return self.state[name]

    def heads_of(self, channels):
        """Number and width of heads, from either."""
        heads = self.heads or channels // self.dim
        return heads, self.dim or channels // heads

    def __call__(self, x, t, y=None):
        half = self.hid // 2
        angles = 1000 * t[:, None] * 10 ** (-4 * torch.arange(half) / (half - 1))
        h = torch.cat([angles.sin(), angles.cos()], 1).float()
        h = self.dense(self.times[1], F.silu(self.dense(self.times[0], h, self.embedding)),
                       self.embedding)  # fmt: skip
        emb = F.silu(h if y is None else h + self.label(y))
        skips = [self.conv(self.first, x, self.hid)]
        for level, width in enumerate(self.widths):
            for i in range(self.blocks):
                skips.append(self.block("down", level, i, skips[-1], emb, width))
            if level < len(self.widths) - 1:
                skips.append(self.resample("down", level, self.blocks, skips[-1], emb))
        h = self.middle(skips[-1], emb)
        for level in reversed(range(len(self.widths))):
            for i in range(self.blocks + 1):
                h = torch.cat([h, skips.pop()], 1)
                h = self.block("up", level, i, h, emb, self.widths[level])
            if level:
                h = self.resample("up", level, self.blocks + 1, h, emb)
        return self.conv(self.last, F.silu(self.norm(self.last_norm, h)), self.out)

    def block(self, part, level, i, h, emb, width, resize=None):
        attends = self.attends[level] and (resize is None or self.resample_attends)
        residual, attention = self.names(part, level, i, attends, resize is not None)
        h = self.residual(residual, h, emb, width, resize or (lambda h: h))
        return self.attention(attention, h) if attends else h

    def resample(self, part, level, i, h, emb):
        width = h.shape[1]
        if part == "down" and self.plain:
            padded = F.pad(h, (0, 1, 0, 1))
            return self.conv(self.plain_name(part, level, i), padded, width, stride=2)
        if self.plain:
            return self.conv(self.plain_name(part, level, i), double(h), width)
        return self.block(part, level, i, h, emb, width, halve if part == "down" else double)

    def residual(self, name, h, emb, width, resize):
        name += self.separator
        main = self.conv(f"{name}conv1", resize(F.silu(self.norm(f"{name}norm1", h))), width)
        first, second = self.dense(name + self.fc, emb, 2 * width)[..., None, None].chunk(2, 1)
        shift, scale = (first, second) if self.shift_first else (second, first)
        main = F.silu(self.norm(f"{name}norm2", main) * (1 + scale) + shift)
        main = self.conv(f"{name}conv2", main, width)
        h = resize(h)
        return main + (h if h.shape[1] == width else self.conv(name + self.skip, h, width, 1))

    def attend(self, q, k, v):
        """Softmax attention of [B, N, heads, dim]."""
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


def halve(h):
    return h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))


def double(h):
    return h.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Reference(Foreign):
    """Names and layouts of the PyTorch reference; ``linear``: its second layout of attention."""

    first, last_norm, last = "in_conv", "out_conv.0", "out_conv.2"
    times = ("time_embed.0", "time_embed.2")
    skip, fc = "skip", "fc"

    def __init__(self, *args, linear=False, tags=False, **options):
        super().__init__(*args, **options)
        self.linear, self.tags = linear, tags

    def conv(self, name, h, out, kernel=3, stride=1):
        channels = h.shape[1]
        weight = self.param(f"{name}.weight", out, channels, kernel, kernel,
                            fan_in=channels * kernel**2)  # fmt: skip
        bias = self.param(f"{name}.bias", out)
        return F.conv2d(h, weight, bias, stride, kernel // 2 if stride == 1 else 0)

    def dense(self, name, h, out):
        weight = self.param(f"{name}.weight", out, h.shape[-1], fan_in=h.shape[-1])
        return h @ weight.T + self.param(f"{name}.bias", out)

    def norm(self, name, h):
        channels = h.shape[1]
        weight, bias = (self.param(f"{name}.{kind}", channels) for kind in ("weight", "bias"))
        return F.group_norm(h, 32, weight, bias, 1e-6)

    def label(self, y):
        if self.tags:
            tags = y / y.sum(1, keepdim=True).clamp(1).sqrt()
            return self.dense("class_embed", tags, self.embedding)
        hot = F.one_hot(y, self.labels + 1)[:, 1:].float()
        return self.dense("class_embed.1", hot, self.embedding)

    def names(self, part, level, i, attends, _resamples):
        name = f"{part}samples.level_{level}.{i}"
        return (f"{name}.0", f"{name}.1") if attends else (name, "")

    def plain_name(self, part, level, i):
        return f"{part}samples.level_{level}.{i}" + (".1" if part == "up" else "")

    def middle(self, h, emb):
        h = self.residual("middle.0", h, emb, h.shape[1], lambda h: h)
        h = self.attention("middle.1", h)
        return self.residual("middle.2", h, emb, h.shape[1], lambda h: h)

    def attention(self, name, x):
        channels, (heads, dim) = x.shape[1], self.heads_of(x.shape[1])
        h = self.norm(f"{name}.norm", x)
        if self.linear:
            tokens = h.flatten(2).mT
            q, k, v = (self.dense(f"{name}.to_{part}", tokens, heads * dim) for part in "qkv")
        else:
            q, k, v = self.conv(f"{name}.proj_in", h, 3 * heads * dim, 1).flatten(2).mT.chunk(3, 2)
        q, k, v = (part.unflatten(2, (heads, dim)) for part in (q, k, v))
        mixed = self.attend(q, k, v).flatten(2)
        if self.linear:
            return x + self.dense(f"{name}.proj_out", mixed, channels).mT.reshape(x.shape)
        image = mixed.mT.reshape(len(x), heads * dim, *x.shape[2:])
        return x + self.conv(f"{name}.proj_out", image, channels, 1)


class Flax(Foreign):
    """Names and layouts of the paper's JAX code; ``extra``: row 0 of the embedding is 'none'."""

    resample_attends = shift_first = False
    first, last_norm, last, times = "conv_in", "norm_out", "conv_out", ("dense0", "dense1")
    skip, fc = "nin_shortcut", "temb_proj"
    separator = "/"

    def __init__(self, *args, extra=False, **options):
        super().__init__(*args, **options)
        self.extra = extra

    def conv(self, name, h, out, kernel=3, stride=1):
        channels = h.shape[1]
        shape = (kernel, kernel, channels, out) if kernel > 1 else (channels, out)
        weight = self.param(f"{name}/kernel", *shape, fan_in=channels * kernel**2)
        weight = weight.permute(3, 2, 0, 1) if kernel > 1 else weight.T[..., None, None]
        padding = kernel // 2 if stride == 1 else 0
        return F.conv2d(h, weight, self.param(f"{name}/bias", out), stride, padding)

    def dense(self, name, h, out):
        kernel = self.param(f"{name}/kernel", h.shape[-1], out, fan_in=h.shape[-1])
        return h @ kernel + self.param(f"{name}/bias", out)

    def norm(self, name, h):
        weight, bias = (self.param(f"{name}/{kind}", h.shape[1]) for kind in ("scale", "bias"))
        return F.group_norm(h, 32, weight, bias, 1e-6)

    def label(self, y):
        """Classes count from 0, or from 1 where row 0 is 'none'; ``y`` counts from 1."""
        hot = F.one_hot(y, self.labels + 1).float()
        return self.dense("class_emb", hot if self.extra else hot[:, 1:], self.embedding)

    def names(self, part, level, i, _attends, resamples):
        block = f"{part}sample" if resamples else f"block_{i}"
        return f"{part}_{level}.{block}", f"{part}_{level}.attn_{i}"

    def plain_name(self, part, level, _i):
        return f"{part}_{level}.{part}sample"

    def middle(self, h, emb):
        h = self.residual("mid.block_1", h, emb, h.shape[1], lambda h: h)
        h = self.attention("mid.attn_1", h)
        return self.residual("mid.block_2", h, emb, h.shape[1], lambda h: h)

    def attention(self, name, x):
        channels, (heads, dim) = x.shape[1], self.heads_of(x.shape[1])
        tokens = self.norm(f"{name}/norm", x).flatten(2).mT
        parts = []
        for part in "qkv":
            kernel = self.param(f"{name}/{part}/kernel", channels, heads, dim, fan_in=channels)
            bias = self.param(f"{name}/{part}/bias", heads, dim)
            parts.append(torch.einsum("bnc,chd->bnhd", tokens, kernel) + bias)
        kernel = self.param(f"{name}/proj_out/kernel", heads, dim, channels, fan_in=heads * dim)
        mixed = torch.einsum("bnhd,hdc->bnc", self.attend(*parts), kernel)
        return x + (mixed + self.param(f"{name}/proj_out/bias", channels)).mT.reshape(x.shape)

    def arrays(self):
        return {name: value.numpy() for name, value in self.state.items()}


def nested(flat):
    """``{"a/b": x}`` as ``{"a": {"b": x}}``."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = np.asarray(value)
    return tree
