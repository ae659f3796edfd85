"""The published data sets in their own files: exact counts, exact crops, and damaged files that
say where."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import noise, read, reasons, visual_genome
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vlmig.data.sources.laion import Laion220k
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.data.sources.wikitext import Wikitext
from vlmig.errors import VLMIGError
from vlmig.vision.files import BadImage


@pytest.mark.parametrize("sizes", [True, False], ids=["image_data", "heads"])
def test_visual_genome_counts_and_crops(tmp_path: Path, sizes: bool) -> None:
    source = VisualGenome(visual_genome(tmp_path / "vg", sizes))
    pairs, bad = read(source)
    assert [pair.caption for pair in pairs] == [
        "a red ball",
        "beyond left and top",
        "beyond right and bottom",
        "grey",
        "small grey",
        "palette",
        "broken off",
    ]
    assert reasons([own for own in bad if not own.dropped]) == {
        "box outside the image": 2,
        "box without area": 1,
        "empty caption": 1,
        "box without four numbers": 2,
        "no y": 1,
        "no caption": 1,
        "no such image": 1,
        "no list of regions": 1,
    }
    assert reasons([own for own in bad if own.dropped]) == {"side under 8 pixels": 2}
    assert [pair.clamped for pair in pairs] == [False, True, True, False, False, False, False]
    assert [pair.box for pair in pairs[:3]] == [(5, 6, 25, 16), (0, 0, 16, 18), (30, 20, 40, 30)]
    assert [pair.group for pair in pairs] == ["1", "1", "1", "2", "2", "3", "4"]
    names = ["VG_100K/1.jpg"] * 3 + ["VG_100K_2/VG_100K_2/2.jpg"] * 2 + ["VG_100K/3.png"]
    for pair, name in zip(pairs, names, strict=False):
        stored = Image.open(tmp_path / "vg" / name).convert("RGB")
        opened = source.open(pair)
        assert opened.mode == "RGB"
        assert opened.tobytes() == stored.crop(pair.box).tobytes()
        assert (
            pair.version == f"{(tmp_path / 'vg' / name).stat().st_size} "
            f"{(tmp_path / 'vg' / name).stat().st_mtime_ns}"
        )
    with pytest.raises(BadImage, match="truncated image"):
        source.open(pairs[-1])


def test_visual_genome_zip_is_plain(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg")
    plain = list(VisualGenome(folder).pairs())
    for name in ("region_descriptions.json", "image_data.json"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / name, name)
        (folder / name).unlink()
    assert list(VisualGenome(folder).pairs()) == plain


def test_visual_genome_s_pictures_must_be_unpacked(tmp_path: Path) -> None:
    folder = visual_genome(tmp_path / "vg")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("VG_100K/1.jpg", "x")
    assert read(VisualGenome(folder))[0]
    with zipfile.ZipFile(folder / "images2.zip", "w") as archive:
        archive.writestr("VG_100K_2/77.jpg", "x")
    with pytest.raises(VLMIGError, match="images2.zip is not unpacked; expected .* 77.jpg"):
        list(VisualGenome(folder).pairs())


@pytest.mark.parametrize("kind", ["broken off", "damaged", "object", "zip"])
def test_damaged_json_says_where(tmp_path: Path, kind: str) -> None:
    folder = visual_genome(tmp_path / "vg")
    path = folder / "region_descriptions.json"
    text = path.read_text()
    place = text.index('"id": 5')
    if kind == "zip":
        with zipfile.ZipFile(folder / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.name, text)
        path.unlink()
        (folder / f"{path.name}.zip").write_bytes((folder / "whole.zip").read_bytes()[:300])
    else:
        told = {
            "broken off": text[:place],
            "damaged": text[:place] + "}" + text[place:],
            "object": '{"id": 1}',
        }
        path.write_text(told[kind])
    with pytest.raises(VLMIGError) as error:
        list(VisualGenome(folder).pairs())
    assert "region_descriptions.json" in str(error.value)
    assert "fetch" in str(error.value) and "\n" not in str(error.value)
    if kind == "broken off":
        assert f"byte {place}" in str(error.value)
        assert "behind image 4" in str(error.value)


def test_laion_reads_local_coco(tmp_path: Path) -> None:
    (tmp_path / "coco/train2017").mkdir(parents=True)
    noise(0).save(tmp_path / "coco/train2017/000000.jpg", quality=95)
    host = "http://images.cocodataset.org/"
    urls = [
        f"{host}train2017/000000.jpg",
        f"{host}val2017/1.jpg",
        None,
        f"{host}../../x.jpg",
        "http://[x",
    ]
    rows = [
        {"url": url, "caption": f"long {i}", "short_caption": f"short {i}"}
        for i, url in enumerate(urls)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lvis_caption_url.parquet")
    for caption, found in (("caption", "long 0"), ("short_caption", "short 0")):
        source = Laion220k(tmp_path, tmp_path / "coco", caption)
        pairs, bad = read(source)
        assert [pair.caption for pair in pairs] == [found]
        assert reasons(bad) == {"no such image": 1, "no url": 2, "url leaves the folder": 1}
    stored = Image.open(tmp_path / "coco/train2017/000000.jpg").convert("RGB")
    assert source.open(pairs[0]).tobytes() == stored.tobytes()
    (tmp_path / "lvis_caption_url.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(VLMIGError, match="not a parquet file"):
        list(source.pairs())


WIKI = """
 = First =

 Alpha beta gamma . Delta epsilon zeta eta theta . Iota kappa .

 = = Section = =

 Lambda mu nu xi omicron . Pi rho sigma tau .

 = Second =

 Upsilon phi chi psi omega . Over .
"""


def test_wikitext_blocks(tmp_path: Path, parts: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(parts / "language_model")
    (tmp_path / "wiki.train.raw").write_text(WIKI)
    source = Wikitext(tmp_path, tokenizer, tokens=40)
    pairs, bad = read(source)
    assert not bad and {pair.group for pair in pairs} == {"First", "Second"}
    for title, paragraphs in {
        "First": "Alpha beta gamma . Delta epsilon zeta eta theta . Iota kappa . Lambda mu nu xi "
        "omicron . Pi rho sigma tau .",
        "Second": "Upsilon phi chi psi omega . Over .",
    }.items():
        blocks = [pair.caption for pair in pairs if pair.group == title]
        assert (
            " ".join(" ".join(blocks).split()) == paragraphs
        )  # nothing lost, nothing cut inside a word
    lengths = [len(tokenizer(pair.caption).input_ids) for pair in pairs]
    assert max(lengths) <= 40 and len(pairs) > 3
    assert all(pair.prompt and pair.prompt in pair.caption and not pair.picture for pair in pairs)
    assert list(source.pairs()) == pairs
    assert not any(pair.prompt for pair in read(Wikitext(tmp_path, tokenizer, imagine=False))[0])
    pq.write_table(pa.table({"text": WIKI.splitlines(keepends=True)}), tmp_path / "train-0.parquet")
    assert list(Wikitext(tmp_path / "train-0.parquet", tokenizer, tokens=40).pairs()) == pairs
    (tmp_path / "many.txt").write_text(
        "\n".join(f" = T{i} = \n\n text number {i} here .\n" for i in range(400))
    )
    share = {pair.group for pair in Wikitext(tmp_path / "many.txt", tokenizer, share=0.25).pairs()}
    assert 70 < len(share) < 130  # 100 expected, standard deviation 9
    (tmp_path / "word.txt").write_text("x" * 100)
    assert (
        "".join(p.caption for p in Wikitext(tmp_path / "word.txt", tokenizer, tokens=30).pairs())
        == "x" * 100
    )
