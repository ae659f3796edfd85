"""Draw the README's image: the HTML page of one answer, photographed by a headless Chromium.

python -m eval.figure docs/answer.png
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageChops

from vlmig.cli.main import main as vlmig

QUESTION = "What is the color of a strawberry?"
CHOICES = "red,green,yellow,white,brown,blue"
WINDOW = (1020, 700)
SCALE = 1.5
MARGIN = 24  # of the page, in its pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars".split()
)
QUIET += "--disable-background-networking --disable-component-update --disable-sync".split()


def main(path: Path) -> None:
    """Ask, write the page, photograph it and cut off the empty rest of the window."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"no browser; expected one of {', '.join(BROWSERS)}: apt install chromium")
    with TemporaryDirectory() as folder:
        page = Path(folder) / "answer.html"
        vlmig(["ask", QUESTION, "--choices", CHOICES, "--k", "6", "--html", str(page)])
        width, height = WINDOW
        options = [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        options += [f"--force-device-scale-factor={SCALE}", f"--screenshot={path.resolve()}"]
        subprocess.run([browser, *QUIET, *options, page.as_uri()], check=True, capture_output=True)
    crop(path)


def crop(path: Path) -> None:
    """Cut the image off below the last row that is not of one colour, and save it."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    background = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    box = ImageChops.difference(picture, background).getbbox()
    if box is not None:
        picture = picture.crop((0, 0, picture.width, box[3] + round(SCALE * MARGIN)))
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
