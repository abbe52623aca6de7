"""Classes written onto an image."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ['draw_classes']

SHORT_SIDE = 224  # pixels; text is not legible on smaller images, they are enlarged
FONT_SHARE = 20  # height of the image over that of a letter
MARGIN = 4


def draw_classes(image: Image.Image, classes: Sequence[str], scores: Sequence[float]) -> Image.Image:
    """Write classes and their probabilities onto a copy of an image.

    Args:
        image (Image.Image): RGB; enlarged if its shorter side has fewer than 224 pixels.
        classes (Sequence[str]): Names, the most likely first.
        scores (Sequence[float]): Their probabilities.

    Returns:
        Image.Image: RGB.
    """
    factor = max(1.0, SHORT_SIDE / min(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    drawn = image.resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.copy()
    lines = '\n'.join(f'{name}: {score:.1%}' for name, score in zip(classes, scores, strict=True))
    draw = ImageDraw.Draw(drawn, 'RGBA')
    font = _font(max(12, min(size) // FONT_SHARE))
    left, top, right, bottom = draw.multiline_textbbox((2 * MARGIN, 2 * MARGIN), lines, font=font)
    draw.rectangle((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN), fill=(0, 0, 0, 160))
    draw.multiline_text((2 * MARGIN, 2 * MARGIN), lines, fill=(255, 255, 255), font=font)
    return drawn


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 it has one size
        return ImageFont.load_default()
