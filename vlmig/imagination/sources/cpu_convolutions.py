"""Convolutions with fewer multiplications: the same result but for rounding, for pipelines that
draw on a CPU in float32.

On a CPU the convolutions of a denoiser already run about as fast as its matrix product, so that
only less arithmetic helps.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

FEWEST = 96
"""Fewest channels for which ``Winograd`` is faster (measured with AVX2)."""
MOST = 2**18
"""Greatest product of input and output channels: ``Winograd`` has four times the weights."""
TO_TILE = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
TO_TILE += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
TO_WEIGHTS = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
TO_WEIGHTS += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
FROM_TILE = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
ONES = 7
"""The element of a tile that ``FROM_TILE`` adds to every output: a bias is added there."""
NEIGHBOURS = [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]
"""Which of three rows of the enlarged image copy two rows of the image, for even and odd rows."""


class Winograd(nn.Module):
    """A 3 x 3 convolution by Winograd's F(4 x 4, 3 x 3): 36 products for 16 outputs, not 144 (Lavin
    and Gray, 2015).

    Args:
        plain: the convolution that it replaces; see ``suits``.
    """

    weights: Tensor
    to_tile: Tensor
    from_tile: Tensor

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        double = partial(torch.tensor, dtype=torch.float64)
        to_tile, to_weights, from_tile = map(double, (TO_TILE, TO_WEIGHTS, FROM_TILE))
        weights = torch.einsum(
            "ik,jl,ockl->ijco", to_weights, to_weights, plain.weight.detach().double()
        )
        self.register_buffer("weights", weights.flatten(0, 1).to(plain.weight.dtype).contiguous())
        self.register_buffer("to_tile", torch.kron(to_tile, to_tile).to(plain.weight.dtype))
        self.register_buffer("from_tile", torch.kron(from_tile, from_tile).to(plain.weight.dtype))
        self.bias = plain.bias

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Tell whether a module is a convolution that gains by it."""
        return (
            isinstance(module, nn.Conv2d)
            and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
            and min(module.in_channels, module.out_channels) >= FEWEST
            and module.in_channels * module.out_channels <= MOST
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (n, c, h, w)."""
        n, _, height, width = x.shape
        rows, columns = -(-height // 4), -(-width // 4)
        margins = (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1)
        tiles = F.pad(x.permute(0, 2, 3, 1), margins).unfold(1, 6, 4).unfold(2, 6, 4)
        tiles = self.to_tile @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        products = tiles.view(36, n * rows * columns, -1) @ self.weights
        if self.bias is not None:
            products[ONES] += self.bias
        outputs = (self.from_tile @ products.flatten(1)).view(4, 4, n, rows, columns, -1)
        whole = outputs.permute(2, 3, 0, 4, 1, 5).reshape(n, 4 * rows, 4 * columns, -1)
        return whole.permute(0, 3, 1, 2)[:, :, :height, :width]


class Upsampled(nn.Module):
    """Doubling and a 3 x 3 convolution as four of 2 x 2 on the small image, one for even and odd
    rows and columns each.

    Of the nine pixels that the convolution sees five are copies, whose weights are added
    beforehand.

    Args:
        plain: the layer that it replaces; see ``suits``.
    """

    def __init__(self, plain: Upsample2D) -> None:
        super().__init__()
        self.plain, weights = plain, plain.conv.weight.detach()
        self.convolutions = nn.ModuleList()
        for rows in torch.tensor(NEIGHBOURS).double():
            for columns in torch.tensor(NEIGHBOURS).double():
                convolution = nn.Conv2d(weights.shape[1], weights.shape[0], 2, dtype=weights.dtype)
                added = torch.einsum("ik,jl,ockl->ocij", rows, columns, weights.double())
                convolution.weight = nn.Parameter(added.to(weights.dtype))
                convolution.bias = plain.conv.bias
                self.convolutions.append(convolution)

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Tell whether a module is a doubling with a convolution."""
        return (
            isinstance(module, Upsample2D)
            and module.interpolate
            and module.norm is None
            and isinstance(convolution := getattr(module, "conv", None), nn.Conv2d)
            and (convolution.kernel_size, convolution.padding) == ((3, 3), (1, 1))
        )

    def forward(self, x: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Enlarge x, (n, c, h, w), to twice its size; to any other as the plain layer does."""
        n, _, height, width = x.shape
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            return self.plain(x, output_size)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).permute(0, 3, 1, 2)
        outputs = []
        for i, convolution in enumerate(self.convolutions):
            window = padded[:, :, i // 2 : i // 2 + height + 1, i % 2 : i % 2 + width + 1]
            outputs.append(convolution(window).permute(0, 2, 3, 1))
        pixels = torch.stack(outputs).unflatten(0, (2, 2)).permute(2, 3, 0, 4, 1, 5)
        return pixels.reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def quicken(model: nn.Module, *kinds: type[Winograd] | type[Upsampled]) -> None:
    """Put modules of the given kinds in the places that suit them."""
    for name, child in list(model.named_children()):
        kind = next((kind for kind in kinds if kind.suits(child)), None)
        if kind is None:
            quicken(child, *kinds)
        else:
            setattr(model, name, kind(child))  # type: ignore[arg-type]
