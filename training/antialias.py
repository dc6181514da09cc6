"""What an unfiltered training crop costs in accuracy: the same photos as JPEG and as PNG.

    python training/antialias.py FOLDER [--size 64] [--epochs 15] [--seeds 0 1 2]
                                 [--out saved_models/antialias]

A training crop of a plain JPEG is shrunk by the decoder and then resized without a filter, which is
twice as fast; that of any other file is resized with the filter that evaluation has. So the photos
of FOLDER are copied as they are and as PNG, of the very pixels and in the same splits, and `photos`
is trained on both with the same seeds. Validation and test images are the same to the pixel.

It goes on where it was stopped. Three seeds of each take half an hour on two threads that multiply
bfloat16, with 3,000 photos of 160 px.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import seeds
from PIL import Image
from rows import refused_in_a_line

from keras_resnet18.errors import InputError

KINDS = ("jpeg", "png")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--out", type=Path, default=Path("saved_models/antialias"))
    arguments = parser.parse_args(given)
    with refused_in_a_line():
        copy_twice(arguments.folder, arguments.out)
    for kind in KINDS:
        print(f"\n{kind}: {'resized without' if kind == 'jpeg' else 'with'} a filter\n")
        settings = [f"image_size={arguments.size}", f"epochs={arguments.epochs}"]
        options = [option for setting in settings for option in ("--set", setting)]
        out = ["--out", str(arguments.out / f"runs-{kind}")]
        images = str(arguments.out / kind)
        seeds.main([images, "--recipe", "photos", *options, "--seeds", *arguments.seeds, *out])


def copy_twice(folder: str, out: Path) -> None:
    """Copies a folder's JPEGs as they are and as PNG, with one split for both."""
    import keras_resnet18 as kr

    source = kr.open_source(folder)
    for name, split in source.splits.items():
        for path in split.names or ():
            file = Path(folder) / path
            if file.suffix.lower() not in (".jpg", ".jpeg"):
                raise InputError(f"the photos must be JPEG files. Received: {file}")
            # the class's folder is the file's own
            places = {kind: out / kind / name / file.parent.name for kind in KINDS}
            for place in places.values():
                place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, places["jpeg"])
            png = places["png"] / f"{file.stem}.png"
            if not png.is_file():
                Image.fromarray(kr.read_image(file)).save(png, compress_level=1)


if __name__ == "__main__":
    main()
