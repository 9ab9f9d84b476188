"""Facts of a U-Net: what DDPM++, NCSN++, ADM and diffusers' DDPM networks differ in."""

from __future__ import annotations

from dataclasses import dataclass

from piflow_bench.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """Facts of a U-Net; level 0 is the full resolution, and every level halves its sides.

    The defaults are ADM's (arXiv 2105.05233).
    """

    channels: int = 3
    height: int = 32
    width: int | None = None
    """Columns; ``height`` if None. Both are multiples of ``2 ** (levels - 1)``."""
    widths: tuple[int, ...] = (128, 256, 256)
    """Channels of each level."""
    blocks: int = 2
    """Residual blocks a level of the encoder; the decoder has one more."""
    classes: int = 0
    """Labels; 0 is unconditional. The null label ``classes`` adds nothing."""
    null_weights: bool = False
    """Whether the null label has an embedding of its own."""
    stem: int | None = None
    """Channels of the first convolution; ``widths[0]`` if None."""

    attention: tuple[int, ...] = (1, 2)
    """Levels of the encoder whose blocks attend."""
    attention_up: tuple[int, ...] | None = None
    """Levels of the decoder whose blocks attend; the encoder's if None."""
    attention_last: bool = False
    """Whether only the last block of such a level of the decoder attends (DDPM++)."""
    head_channels: int | None = 64
    """Channels of an attention head; one head of all of them if None."""
    middle: str = "attention"
    """Two blocks between encoder and decoder of which the first attends, ``plain`` or ``none``."""
    middle_groups: int | None = None
    """Groups of the norm before the middle's attention; as elsewhere if None, no norm if 0."""

    adaptive: bool = True
    """Whether the embedding scales and shifts the second norm, or is added before it."""
    skip_scale: float = 1.0
    """What a sum of branches is multiplied by."""
    groups: int | None = None
    """Groups of a norm; ``min(32, channels // 4)`` if None."""
    eps: float = 1e-5
    """Added to a norm's variance."""

    resampling: str = "block"
    """``block`` changes the size inside a residual block, ``convolution`` in one of its own."""
    taps: tuple[int, ...] = (1, 1)
    """Filter of ``block``: (1, 1) or (1, 3, 3, 1)."""
    project_resampled: bool = False
    """Whether the skip of a resampling block has a 1x1 convolution (DDPM++)."""
    asymmetric: bool = False
    """Whether ``convolution`` pads below and to the right alone when it halves."""
    residual_input: bool = False
    """Whether the shrunk input is added at every level (NCSN++)."""

    embedding_dim: int | None = None
    """Width of the embedding; ``4 * widths[0]`` if None."""
    time_channels: int | None = None
    """Features of the time; ``widths[0]`` if None."""
    fourier: bool = False
    """Whether the features have random frequencies, which are weights (NCSN++)."""
    frequency_shift: float = 0.0
    """Frequencies are ``10000 ** -(i / (time_channels / 2 - frequency_shift))``."""
    sines_first: bool = False
    """Whether sines come before cosines."""
    labels_first: bool = False
    """Whether labels enter before the perceptron, scaled by sqrt(classes), with a bias (DDPM++)."""
    centred: bool = False
    """Whether the network maps its input x to 2 x - 1 (diffusers' center_input_sample)."""

    def __post_init__(self) -> None:
        part = 2 ** (len(self.widths) - 1)
        for name, side in (("height", self.height), ("width", self.sides[1])):
            if side % part:
                raise UserError(
                    f"{name}={side}: a U-Net of {len(self.widths)} levels needs multiples of {part}"
                )

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of a sample."""
        return self.height, self.height if self.width is None else self.width

    def size(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level."""
        height, width = self.sides
        return height >> level, width >> level

    def name(self, level: int) -> str:
        """Rows x columns of a level, as weights are named."""
        return "{}x{}".format(*self.size(level))
