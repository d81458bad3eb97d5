"""The UNet of ADM and its relatives, restated from their papers under their names of layers."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Res(nn.Module):
    def __init__(self, channels, out, emb, scales, resize=None):
        super().__init__()
        self.scales, self.resize = scales, resize
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, (1 + scales) * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x, emb):
        h = F.silu(self.in_layers[0](x))
        if self.resize == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.resize == "up":
            h, x = (F.interpolate(each, scale_factor=2) for each in (h, x))
        h = self.in_layers[2](h)
        shift = self.emb_layers(emb)[..., None, None]
        if self.scales:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + shift)
        return self.skip_connection(x) + self.out_layers[3](F.silu(h))


class Attend(nn.Module):
    def __init__(self, channels, heads, width, new_order):
        super().__init__()
        self.heads, self.new_order = heads if width == -1 else channels // width, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv, self.proj_out = (
            nn.Conv1d(channels, 3 * channels, 1),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x, _emb):
        batch, channels = x.shape[:2]
        qkv = self.qkv(self.norm(x).flatten(2))
        shape = (batch, 3, self.heads, -1) if self.new_order else (batch, self.heads, 3, -1)
        qkv = qkv.reshape(*shape, qkv.shape[-1])
        q, k, v = qkv.unbind(1 if self.new_order else 2)  # each [B, heads, width, N]
        weights = torch.einsum("bhdn,bhdm->bhnm", q, k).div(math.sqrt(q.shape[2])).softmax(-1)
        mixed = torch.einsum("bhnm,bhdm->bhdn", weights, v).reshape(batch, channels, -1)
        return x + self.proj_out(mixed).reshape(x.shape)


class Resize(nn.Module):
    def __init__(self, channels, down):
        super().__init__()
        if down:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _emb):
        return self.op(x) if hasattr(self, "op") else self.conv(F.interpolate(x, scale_factor=2))


class First(nn.Conv2d):
    def forward(self, x, _emb):
        return super().forward(x)


class Adm(nn.Module):
    """Built by flags of the scripts."""

    def __init__(self, flags, classes=0):
        super().__init__()
        width, blocks, scales = (flags[name] for name in (
            "num_channels", "num_res_blocks", "use_scale_shift_norm"))  # fmt: skip
        emb, resnet = 4 * width, flags["resblock_updown"]
        ratios = [int(text) for text in flags["channel_mult"].split(",")]
        attends = [flags["image_size"] // int(r) for r in flags["attention_resolutions"].split(",")]

        def attention(channels):
            return Attend(channels, flags["num_heads"], flags["num_head_channels"],
                          flags["use_new_attention_order"])  # fmt: skip

        def stack(*layers):
            return nn.ModuleList(layers)

        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)
        self.input_blocks = stack(stack(First(flags["in_channels"], width, 3, padding=1)))
        skips, channels, scale = [width], width, 1
        for level, ratio in enumerate(ratios):
            for _ in range(blocks):
                layers = [Res(channels, ratio * width, emb, scales)]
                channels = ratio * width
                layers += [attention(channels)] if scale in attends else []
                self.input_blocks.append(stack(*layers))
                skips.append(channels)
            if level < len(ratios) - 1:
                halved = (Res(channels, channels, emb, scales, "down") if resnet
                          else Resize(channels, True))  # fmt: skip
                self.input_blocks.append(stack(halved))
                skips.append(channels)
                scale *= 2
        self.middle_block = stack(
            Res(channels, channels, emb, scales), attention(channels),
            Res(channels, channels, emb, scales),
        )  # fmt: skip
        self.output_blocks = stack()
        for level, ratio in reversed(list(enumerate(ratios))):
            for i in range(blocks + 1):
                layers = [Res(channels + skips.pop(), ratio * width, emb, scales)]
                channels = ratio * width
                layers += [attention(channels)] if scale in attends else []
                if level and i == blocks:
                    layers.append(Res(channels, channels, emb, scales, "up") if resnet
                                  else Resize(channels, False))  # fmt: skip
                    scale //= 2
                self.output_blocks.append(stack(*layers))
        out = (1 + flags["learn_sigma"]) * flags["in_channels"]
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )

    def forward(self, x, timesteps, y=None):
        half = self.width // 2
        rates = torch.tensor([10 ** (-4 * i / half) for i in range(half)], dtype=torch.float64)
        turns = timesteps.double()[:, None] * rates
        emb = self.time_embed(torch.cat([turns.cos(), turns.sin()], 1).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        kept, h = [], x
        for layers in self.input_blocks:
            for layer in layers:
                h = layer(h, emb)
            kept.append(h)
        for layer in self.middle_block:
            h = layer(h, emb)
        for layers in self.output_blocks:
            h = torch.cat([h, kept.pop()], 1)
            for layer in layers:
                h = layer(h, emb)
        return self.out(h)
