"""Images of the pocket world: a glyph on a random background, and functions that name its color and
shape.

The glyphs are those of Noto Color Emoji (Debian package ``fonts-noto-color-emoji``), a bitmap font
that Pillow draws at size 109. Only the recipe needs the font; the shipped weights do not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 96
"""Side of a scene in pixels."""
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GLYPH = 96
"""Side of the square that a drawing fills, in pixels."""
FITS = 0.7
"""Least intersection over union of a silhouette and the basic shape that it is said to have."""

# Focal colors in sRGB, several for names of a wide region; the names of Berlin and Kay (1969).
# Renderings with light and shade have reds towards rose and whites towards lilac, which people
# still call red and white.
FOCAL_COLORS = {
    "black": ["#141414", "#2b2b2b", "#263238"],
    "white": ["#ffffff", "#eeeeee", "#f3f0e6", "#e8e0f4"],
    "gray": ["#808080", "#a8a8a8", "#616161", "#90a4ae", "#78909c"],
    "red": [
        *("#e01818", "#b01020", "#f44336", "#8c1018"),
        *("#dc143c", "#f83060", "#ff4878", "#d02858"),
    ],
    "orange": ["#ff8800", "#f57c00", "#ffa030"],
    "yellow": ["#ffe000", "#fdd835", "#fff176", "#ffca28"],
    "green": ["#189818", "#66bb3a", "#2e5f2e", "#a8d048", "#0a8f6a"],
    "blue": ["#1848c8", "#42a5f5", "#80c8f8", "#102870", "#2fb8d8"],
    "purple": ["#8020a0", "#a060d0", "#4a1870"],
    "pink": ["#ff90b8", "#ff69b4", "#f8c0d0"],
    "brown": ["#704020", "#8d5a3a", "#4e342e", "#b07a4a", "#a1662f"],
}
COLORS = tuple(FOCAL_COLORS)


@cache
def glyph(character: str) -> Image.Image:
    """Draw a glyph, cropped to its ink and centered on a transparent 96 x 96 square.

    Raises:
        FileNotFoundError: the font is not installed.
    """
    if not FONT.exists():
        raise FileNotFoundError(
            f"{FONT} is missing: the recipe draws with it; apt-get install fonts-noto-color-emoji"
        )
    canvas = Image.new("RGBA", (192, 192), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text(
        (20, 20), character, font=ImageFont.truetype(str(FONT), 109), embedded_color=True
    )
    box = canvas.getbbox()
    if box is None:
        raise ValueError(
            f"the font {FONT} has no glyph for {character!r}; use fonts-noto-color-emoji 2.042 or "
            "later"
        )
    ink = canvas.crop(box)
    scale = GLYPH / max(ink.size)
    ink = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))),
        Image.Resampling.LANCZOS,
    )
    square = Image.new("RGBA", (GLYPH, GLYPH), (0, 0, 0, 0))
    square.paste(ink, ((GLYPH - ink.width) // 2, (GLYPH - ink.height) // 2))
    return square


def cropped(image: Image.Image) -> Image.Image:
    """Crop a transparent image (RGBA) to its ink."""
    return image.crop(image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox())


def scene(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Place a drawing (RGBA) on a random background, SIZE x SIZE RGB: never mirrored and hardly
    turned, as things are seen."""
    return scene_with_mask(ink, rng)[0]


def scene_with_mask(ink: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """Return a ``scene``, and how far the drawing covers each of its pixels, (SIZE, SIZE) in
    [0, 1]."""
    side = round(SIZE * rng.uniform(0.78, 0.96))
    turned = ink.resize((2 * side, 2 * side), Image.Resampling.LANCZOS)
    turned = turned.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    turned = turned.resize((side, side), Image.Resampling.BOX)
    picture = background(rng)
    x, y = rng.integers(0, SIZE - side + 1, 2)
    picture.paste(turned, (int(x), int(y)), turned)
    mask = Image.new("L", picture.size)
    mask.paste(turned.getchannel("A"), (int(x), int(y)))
    return picture, np.asarray(mask, dtype=np.float32) / 255


def background(rng: np.random.Generator) -> Image.Image:
    """Draw a soft gradient between two random colors, SIZE x SIZE RGB."""
    ends = rng.uniform(0, 255, (2, 3))
    ends = ends.mean(1, keepdims=True) + (ends - ends.mean(1, keepdims=True)) * rng.uniform(
        0.2, 1.0
    )
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    ramp = np.clip(0.5 + np.cos(angle) * x + np.sin(angle) * y, 0, 1)[..., None]
    return Image.fromarray((ends[0] * (1 - ramp) + ends[1] * ramp).astype(np.uint8))


def recolored(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Give a glyph random colors, so that its name does not tell them.

    About a third of the time every hue is rotated by one angle, which keeps the contrasts.
    Otherwise the glyph gets a random focal color, shaded by the glyph's lightness.
    """
    rgba = np.asarray(ink, dtype=np.float32) / 255
    lightness = rgba[..., :3].mean(-1, keepdims=True)
    if rng.random() < 0.35:
        hsv = np.asarray(ink.convert("RGB").convert("HSV"), dtype=np.float32)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 256)) % 256
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.3), 0, 255)
        hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.6, 1.15), 0, 255)
        rgb = (
            np.asarray(
                Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"), dtype=np.float32
            )
            / 255
        )
    else:
        focal = FOCAL_COLORS[COLORS[rng.integers(len(COLORS))]]
        target = _rgb(focal[rng.integers(len(focal))]) + rng.normal(0, 0.04, 3)
        visible = rgba[..., 3] > 0.5
        middle = np.median(lightness[visible]) if visible.any() else 0.5
        rgb = np.clip(target + (lightness - middle) * rng.uniform(0.25, 0.7), 0, 1)
        keep = rng.uniform(0.0, 0.35)
        rgb = (1 - keep) * rgb + keep * rgba[..., :3]
    pixels = np.concatenate([rgb, rgba[..., 3:]], -1)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8), "RGBA")


def read_color(ink: Image.Image) -> tuple[str, float]:
    """Return the dominant color of a glyph's opaque pixels.

    Each pixel takes the name of the nearest focal color in CIELAB; the name with most pixels wins.

    Returns:
        The name and its share of the opaque pixels.
    """
    pixels = np.asarray(ink, dtype=np.float32).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 200, :3] / 255
    names, focal = _focal_lab()
    nearest = ((to_lab(opaque)[:, None] - focal[None]) ** 2).sum(-1).argmin(1)
    share = np.bincount(names[nearest], minlength=len(COLORS)) / max(len(opaque), 1)
    return COLORS[int(share.argmax())], float(share.max())


def reshaped(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Stretch a drawing, or cut a basic shape out of it, so that its name does not tell its shape.

    Three tenths stay as they are, unless no basic shape fits them.
    """
    kind = rng.random()
    if kind < 0.3:
        shaped = ink
    elif kind < 0.55:
        shaped = stretched(ink, rng)
    if kind >= 0.55 or read_shape(shaped)[1] < FITS:
        shaped = cut(ink, rng)
    return shaped


def stretched(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Make a drawing narrower or lower, in the middle of its square."""
    size = [ink.width, ink.height]
    axis = rng.integers(2)
    size[axis] = round(size[axis] * rng.uniform(0.35, 0.85))
    square = Image.new("RGBA", ink.size, (0, 0, 0, 0))
    corner = ((ink.width - size[0]) // 2, (ink.height - size[1]) // 2)
    square.paste(ink.resize((size[0], size[1]), Image.Resampling.LANCZOS), corner)
    return square


def cut(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut a random basic shape out of a drawing; its gaps get its middle color."""
    names = sorted({name for name, _ in _silhouettes()})
    name = names[rng.integers(len(names))]
    masks = [mask for other, mask in _silhouettes() if other == name]
    mask = masks[rng.integers(len(masks))]
    rgba = np.asarray(ink)
    solid = rgba[..., 3] > 128
    rgb = np.where(solid[..., None], rgba[..., :3], np.median(rgba[solid][:, :3], axis=0))
    pixels = np.concatenate([rgb, 255.0 * mask[..., None]], -1)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def read_shape(ink: Image.Image) -> tuple[str, float]:
    """Return the basic shape most like a drawing's silhouette (RGBA, of a glyph's size).

    Returns:
        The name, and the intersection over union of the two.
    """
    mask = (np.asarray(ink)[..., 3] > 128).ravel().astype(np.float32)
    names, masks = _silhouette_matrix()
    shared = masks @ mask
    overlaps = shared / (masks.sum(1) + mask.sum() - shared)
    best = int(overlaps.argmax())
    return names[best], float(overlaps[best])


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32) / 255


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1], shape (n, 3), to CIELAB under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


@cache
def _focal_lab() -> tuple[np.ndarray, np.ndarray]:
    """Return the name index of each focal color, (m,), and its CIELAB value, (m, 3)."""
    names, values = [], []
    for i, name in enumerate(COLORS):
        for code in FOCAL_COLORS[name]:
            names.append(i)
            values.append(_rgb(code))
    return np.array(names), to_lab(np.stack(values))


@cache
def _silhouette_matrix() -> tuple[list[str], np.ndarray]:
    """Return the names of the silhouettes and their masks as rows of 0 and 1."""
    names, masks = zip(*_silhouettes(), strict=True)
    return list(names), np.stack(masks).reshape(len(masks), -1).astype(np.float32)


@cache
def _silhouettes() -> tuple[tuple[str, np.ndarray], ...]:
    """Return masks of basic shapes at several angles and widths, fitted to the glyph square."""
    shapes = []
    center = GLYPH / 2

    def polygon(name: str, points: list[tuple[float, float]]) -> None:
        for turn in range(0, 180, 15):
            angle = np.radians(turn)
            turned = np.array(points) @ np.array(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            )
            scale = (center - 1) / np.abs(turned).max()
            outline = [(float(x * scale + center), float(y * scale + center)) for x, y in turned]
            canvas = Image.new("1", (GLYPH, GLYPH))
            ImageDraw.Draw(canvas).polygon(outline, fill=1)
            shapes.append((name, np.asarray(canvas)))

    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    polygon("round", [(np.cos(a), np.sin(a)) for a in angles])
    for width in (0.4, 0.6, 0.75):
        polygon("oval", [(np.cos(a), width * np.sin(a)) for a in angles])
    polygon("square", [(-1, -1), (1, -1), (1, 1), (-1, 1)])
    for width in (0.15, 0.3, 0.45, 0.6, 0.75):
        polygon("rectangle", [(-1, -width), (1, -width), (1, width), (-1, width)])
    for height in (0.8, 1.2):
        for sign in (-1, 1):
            polygon("triangle", [(-1, sign * height), (1, sign * height), (0, -sign * height)])
    star = []
    for i, r in enumerate([1.0, 0.42] * 5):
        star.append((r * np.sin(np.pi * i / 5), r * np.cos(np.pi * i / 5)))
    polygon("star", star)
    return tuple(shapes)
