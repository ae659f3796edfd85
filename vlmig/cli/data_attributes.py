"""``vlmig data attributes``: what people say of things in Visual Genome, as a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmig.cli.options import new_file
from vlmig.errors import VLMIGError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s PLACE [--out FILE] [--least N]"
    text = "folder of Visual Genome's raw files, or its attributes.json(.zip)"
    parser.add_argument("place", type=Path, metavar="PLACE", help=text)
    text = "what to write (default: attribute_shares.json in that folder)"
    parser.add_argument("--out", type=new_file, metavar="FILE", help=text)
    text = "fewest images that must say a kind of attribute of a noun (default: %(default)s)"
    parser.add_argument("--least", type=int, default=20, metavar="N", help=text)


def run(arguments: argparse.Namespace) -> None:
    from vlmig.data.attributes import FILE, write_attributes
    from vlmig.report.text_table import text_table

    if arguments.least < 1:
        raise VLMIGError(f"--least {arguments.least}; expected at least one image")
    written = write_attributes(arguments.place, arguments.out, arguments.least)
    rows = [["", "nouns", "images that say it", "objects"]]
    for kind in written["kinds"]:
        images = sum(noun["images"] for noun in kind["nouns"])
        objects = sum(noun["objects"] for noun in kind["nouns"])
        rows.append([kind["kind"], str(len(kind["nouns"])), str(images), str(objects)])
    print(text_table(rows, "<>>>"))
    print(f"read {written['read']['images']} images, {written['read']['objects']} objects")
    for reason, count in written["read"]["left_out"].items():
        print(f"  left out: {reason} {count}")
    folder = arguments.place if arguments.place.is_dir() else arguments.place.parent
    print(f"wrote {arguments.out or folder / FILE}")
