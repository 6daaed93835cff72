"""FourCastNet (v1) as a `Stepper`: a transformer on patches whose tokens are mixed in the frequency domain (AFNO).

Guibas et al., arXiv 2111.13587; Pathak et al., arXiv 2202.11214. Written from the papers and the published names and shapes.

Legend: B batch, C channels, H latitudes, W longitudes, R rows and L columns of tokens, D width, N mixers, I width of a mixer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.capabilities.weather.published import fourcastnet_files
from modelworks.capabilities.weather.published.fourcastnet_files import CHANNELS, MEANS, STDS, WEIGHTS, Size, check_weights
from modelworks.contract.errors import InvalidData

#: Coefficients nearer to 0 become 0.
_THRESHOLD: Final = 0.01


class _Mixer(nn.Module):  # type: ignore[misc, unused-ignore]
    """Two layers on each frequency, in blocks of channels; frequencies of columns beyond half the rows are dropped."""

    def __init__(self, width: int, mixers: int) -> None:
        super().__init__()
        part = width // mixers
        self.w1, self.w2 = (nn.Parameter(torch.zeros(2, mixers, part, part)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(torch.zeros(2, mixers, part)) for _ in range(2))

    def forward(self, x_brld: Tensor) -> Tensor:
        rows, columns = x_brld.shape[1:3]
        waves = torch.fft.rfft2(x_brld, dim=(1, 2), norm="ortho")
        kept = rows // 2 + 1
        low = waves[:, :, :kept].unflatten(-1, self.w1.shape[1:3])
        low = torch.einsum("brlni,nio->brlno", low, torch.complex(*self.w1)) + torch.complex(*self.b1)
        low = torch.complex(functional.relu(low.real), functional.relu(low.imag))
        low = torch.einsum("brlni,nio->brlno", low, torch.complex(*self.w2)) + torch.complex(*self.b2)
        low = torch.complex(functional.softshrink(low.real, _THRESHOLD), functional.softshrink(low.imag, _THRESHOLD))
        mixed = torch.zeros_like(waves)
        mixed[:, :, :kept] = low.flatten(-2)
        return torch.fft.irfft2(mixed, s=(rows, columns), dim=(1, 2), norm="ortho") + x_brld


class _Block(nn.Module):  # type: ignore[misc, unused-ignore]
    def __init__(self, width: int, mixers: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.filter = _Mixer(width, mixers)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x_brld: Tensor) -> Tensor:
        x_brld = x_brld + self.filter(self.norm1(x_brld))
        return x_brld + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x_brld))))


class AFNO(nn.Module):  # type: ignore[misc, unused-ignore]
    """The network; names of weights are the published ones."""

    def __init__(self, channels: int, mixers: int, size: Size) -> None:
        super().__init__()
        self._size = size
        tokens = (size.rows // size.patch) * (size.columns // size.patch)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, size.width, size.patch, stride=size.patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, size.width))
        self.blocks = nn.ModuleList(_Block(size.width, mixers) for _ in range(size.depth))
        #: In the files, and not computed with.
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.head = nn.Linear(size.width, channels * size.patch**2, bias=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """The state after six hours, standardised as the one that is given."""
        size = self._size
        x_brld = self.patch_embed["proj"](x_bchw).permute(0, 2, 3, 1)
        x_brld = x_brld + self.pos_embed.unflatten(1, x_brld.shape[1:3])
        for block in self.blocks:
            x_brld = block(x_brld)
        patches = self.head(x_brld).unflatten(-1, (size.patch, size.patch, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(x_bchw.shape)


class FourCastNet:
    """Steps of six hours, each from the last state."""

    history: Final = 1
    stride: Final = 1
    step_hours: Final = 6.0

    def __init__(self, folder: Path) -> None:
        """Load the weights, which safetensors do not run.

        Raises:
            InvalidData: a weight is missing or has another shape; means or deviations are not those of the channels.
        """
        size = fourcastnet_files.SIZE
        channels, mixers = check_weights(folder / WEIGHTS, size)
        self.channels = CHANNELS[channels]
        self._mean, self._std = (_of_channels(folder / name, channels) for name in (MEANS, STDS))
        if (self._std <= 0).any():
            raise InvalidData(f"{STDS} has a deviation that is not above 0.", hint="Fetch it again.", param=STDS)
        self._network = AFNO(channels, mixers, size)
        self._network.load_state_dict(load_file(folder / WEIGHTS))
        self._network.eval()
        spacing = 360 / size.columns
        self.latitude_h: NDArray[np.float64] = np.asarray(90 - np.arange(size.rows) * spacing, np.float64)
        self.longitude_w: NDArray[np.float64] = np.asarray(np.arange(size.columns) * spacing, np.float64)

    def begin(self, start: np.datetime64) -> None:
        """Nothing depends on the time."""

    def advance(self, history_schw: Floats, last: np.datetime64, noise: np.random.Generator | None) -> Floats:
        """See `Stepper`."""
        with torch.inference_mode():
            standard = torch.from_numpy(np.ascontiguousarray((history_schw[-1:] - self._mean) / self._std))
            found = self._network(standard).numpy() * self._std + self._mean
        if not np.isfinite(found).all():
            raise InvalidData("The model gave values that are no numbers.", hint="Are the weights whole?", code="not_finite")
        return np.asarray(found, np.float32)


def _of_channels(path: Path, channels: int) -> Floats:
    """Of each channel, (1, C, 1, 1)."""
    try:
        found = np.load(path, allow_pickle=False)
        return np.asarray(found.reshape(1, -1, 1, 1)[:, :channels], np.float32).reshape(1, channels, 1, 1)
    except (OSError, ValueError) as error:
        raise InvalidData(
            f"{path.name} does not hold a number for each of the {channels} channels: {error}.",
            hint="Give the file that was published with these weights.",
            param=path.name,
        ) from error
