"""A residual U-Net on the latitude-longitude grid: the last states in, the next ones out, a head for each lead time.

It predicts how the anomaly departs from the damped last one, so that with zero weights it is damped persistence. There is no
normalisation layer: on grids as small as these it costs a quarter of the time, and gains on the residual branches do for it.

Source: Ronneberger et al. 2015 (U-Net), He et al. 2016 (residual blocks), Zhang et al. 2019 (Fixup: residual networks without
normalisation), as Weyn et al. 2020 use U-Nets for weather.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch import nn


class _Conv(nn.Module):  # type: ignore[misc]
    """3 x 3, padded as the grid is: round the circle of longitudes where it closes, with zeros (the climate) elsewhere."""

    def __init__(self, inner: int, outer: int, *, is_global: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=(1, 0 if is_global else 1))
        self.is_global = is_global

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        if self.is_global:
            x_bchw = F.pad(x_bchw, (1, 1, 0, 0), mode="circular")
        return self.conv(x_bchw)


class _Block(nn.Module):  # type: ignore[misc]
    """Two convolutions and a way round them; a gain that grows from a small one stands for a normalisation."""

    def __init__(self, inner: int, outer: int, *, is_global: bool, dropout: float) -> None:
        super().__init__()
        self.first = _Conv(inner, outer, is_global=is_global)
        self.second = _Conv(outer, outer, is_global=is_global)
        self.gain = nn.Parameter(torch.full((outer, 1, 1), 0.3))
        self.drop = nn.Dropout2d(dropout)
        self.round = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        inner = self.drop(F.silu(self.first(x_bchw)))
        return F.silu(self.round(x_bchw) + self.gain * self.second(inner))


class UNet(nn.Module):  # type: ignore[misc]
    """Legend: B batch, S states of the history, C channels, L steps of a block, X further inputs, H, W.

    Args:
        channels, history, block: C, S and L.
        extras: X, what does not change with the forecast: season, latitude, orography.
        width, depth: features of the widest grid, and how often it is halved.
        is_global: whether longitudes close the circle.
    """

    def __init__(
        self,
        *,
        channels: int,
        history: int,
        block: int,
        extras: int,
        width: int,
        depth: int,
        is_global: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.block = channels, block
        widths = [width * 2**level for level in range(depth + 1)]
        shape: dict[str, Any] = {"is_global": is_global, "dropout": dropout}
        self.down = nn.ModuleList()
        inner = channels * history + extras
        for each in widths:
            self.down.append(_Block(inner, each, **shape))
            inner = each
        self.up = nn.ModuleList(
            _Block(widths[level + 1] + widths[level], widths[level], **shape) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(widths[0], channels * block, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.damping_lc = nn.Parameter(torch.ones(block, channels) * torch.logspace(-0.15, -0.15 * block, block)[:, None])

    def forward(self, history_bschw: torch.Tensor, extras_bxhw: torch.Tensor) -> torch.Tensor:
        """Anomalies of the next steps, (B, L, C, H, W)."""
        last_bchw = history_bschw[:, -1]
        x_bchw = torch.cat([history_bschw.flatten(1, 2), extras_bxhw], dim=1)
        kept = []
        for level, block in enumerate(self.down):
            if level:
                x_bchw = F.avg_pool2d(x_bchw, 2, ceil_mode=True, count_include_pad=False)
            x_bchw = block(x_bchw)
            kept.append(x_bchw)
        for level, block in zip(reversed(range(len(self.up))), self.up, strict=True):
            wide = F.interpolate(x_bchw, size=kept[level].shape[-2:], mode="nearest")
            x_bchw = block(torch.cat([wide, kept[level]], dim=1))
        change_blchw = self.head(x_bchw).unflatten(1, (self.block, self.channels))
        return change_blchw + self.damping_lc[None, :, :, None, None] * last_bchw[:, None]
