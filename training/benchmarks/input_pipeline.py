"""Speed of reading photos: our pipelines for training and evaluation beside others.

    python training/benchmarks/input_pipeline.py --folder PHOTOS [--size 224] [--batch 64]
                        [--rounds 5] [--seconds 5] [--cases NAME ...] [--torch-python PYTHON]
                        [--mosaics N] [--rows FILE]

Each case is a process of its own with an endless pipeline on all cores, and the cases run in turn;
the batches that lay ready are not timed. A table is printed: images per second, ratios round by
round, and the highest memory of the process. PHOTOS is a folder with a folder for each class.

Training crops a random window of 35 to 100 % of the area, as the recipe `photos` does, resizes it
and mirrors it half of the time; Keras, which has no such crop, crops all images of a batch alike
out of larger ones. Evaluation resizes with the antialiased filter and crops the middle. Two facts
say how near the pixels are: the training crop's mean difference to the antialiased crop, and the
largest difference of evaluation to Pillow. Each case of a round is a row in --rows, and whole
rounds are not measured again.

`--mosaics N` reads so many images of 640×480 instead, each of nine of the photos, whose files are
about as large as ImageNet's: for photos that are smaller than that.

torch's cases need torch and Pillow; without them they are left out. On a machine that others use,
`chrt -r 5` keeps them away.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from in_turn import answer, command, compare, options, process_peak_mib, text
from rows import Row, at_least_one

from keras_resnet18.machine import cpu_count, prepare_tensorflow

CASES = {
    "train": "ours, training",
    "torch": "torch `DataLoader` and Pillow, training",
    "torch-normalized": "the same, normalized to float32",
    "keras": "Keras' `image_dataset_from_directory`, training",
    "evaluate": "ours, evaluation",
    "evaluate-before": "evaluation as it was: Pillow, then `tf.image.resize`",
    "evaluate-pillow": "evaluation by Pillow alone, image by image",
    "decode": "decoding alone",
}
RIVALS = {
    f"to {CASES[rival]}": lambda name, rival=rival: CASES[rival]
    for rival in ("torch", "keras", "decode", "evaluate-before")
}
AREAS = (0.35, 1.0)  # of the random window, smallest and largest
_READY, _SETTLED = 8, 1.0  # batches and seconds that are not timed, because batches lie ready
_COMPARED = 200  # images


class Pipeline:
    """An endless pipeline in TensorFlow or torch.

    Args:
        batches: Batches, each a pair of arrays or one.
        facts: What a case says about itself.
    """

    def __init__(self, batches: Iterator[Any], facts: dict[str, Any]) -> None:
        self.batches, self._facts = batches, facts

    def run(self, steps: int) -> float:
        """Seconds of so many batches."""
        start, ready = time.perf_counter(), 0
        while ready < _READY or time.perf_counter() - start < _SETTLED:
            next(self.batches)
            ready += 1
        start = time.perf_counter()
        for _ in range(steps):
            next(self.batches)
        return time.perf_counter() - start

    def facts(self) -> dict[str, Any]:
        """Versions, and how near the pixels are."""
        return self._facts

    def peak_mib(self) -> float:
        """Of the process."""
        return process_peak_mib()


def make_pipeline(case: str, folder: str, size: int, batch: int) -> Pipeline:
    """The pipeline of a case."""
    if case.startswith("torch"):
        from torch_pipeline import torch_batches

        return Pipeline(*torch_batches(folder, size, batch, AREAS, case != "torch"))
    prepare_tensorflow()
    import tensorflow as tf

    from keras_resnet18 import open_source
    from keras_resnet18.preprocess import Preprocess

    facts: dict[str, Any] = {"tensorflow": tf.__version__}
    spec = Preprocess(size=(size, size))
    if case == "keras":
        return Pipeline(iter(keras_batches(folder, spec.size, batch)), facts)
    split = open_source(Path(folder)).splits["train"]
    paths = [str(Path(folder) / name) for name in split.names or ()]
    if case == "train":
        facts["mean_difference_to_the_antialiased_crop"] = crop_difference(split, spec)
        batches = train_batches(split, functools.partial(augmented, spec=spec), batch)
    elif case == "evaluate":
        facts["largest_difference_to_pillow"] = evaluation_difference(split, paths, spec)
        batches = evaluation_batches(split, spec, batch)
    else:
        batches = mapped_batches(paths, case, spec, batch)
    return Pipeline(iter(batches), facts)


def augmented(image: Any, seed: Any, *, spec: Any, flip: bool = True) -> Any:
    """A training image of ours."""
    from keras_resnet18.data.augment import augment
    from keras_resnet18.recipe import Augment

    settings = Augment(resized_crop=AREAS, flip=flip)
    return augment(image, seed, preprocess=spec, settings=settings)


def train_batches(split: Any, transform: Callable[..., Any], batch: int) -> Any:
    """What `train` reads."""
    from keras_resnet18.data import pipeline

    return pipeline.train_batches(split, transform, batch_size=batch, seed=0)


def evaluation_batches(split: Any, spec: Any, batch: int) -> Any:
    """What `evaluate` reads, again and again."""
    from keras_resnet18.data import pipeline

    return pipeline.eval_batches(split, spec.resize_and_crop, batch_size=batch).repeat()


def mapped_batches(paths: Sequence[str], case: str, spec: Any, batch: int) -> Any:
    """Photos in order, read another way than ours."""
    import tensorflow as tf

    from keras_resnet18.images import read_image, resize_and_crop

    def decoded(path: Any) -> Any:
        data = tf.io.read_file(path)
        return tf.shape(tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"))

    def before(path: Any) -> Any:
        image = tf.numpy_function(lambda name: read_image(name.decode()), [path], tf.uint8)
        image = tf.ensure_shape(image, (None, None, 3))
        size = tf.cast(tf.shape(image)[:2], tf.int64)
        new, corner = spec.placement(size[0], size[1], tf.maximum, tf.minimum)
        image = tf.image.resize(image, tf.cast(tf.stack(new), tf.int32), antialias=True)
        image = tf.slice(image, tf.stack([*corner, 0]), (*spec.size, 3))
        return tf.saturate_cast(tf.round(image), tf.uint8)

    def pillow(path: Any) -> Any:
        def read(name: bytes) -> Any:
            return resize_and_crop(read_image(name.decode()), spec)

        return tf.ensure_shape(tf.numpy_function(read, [path], tf.uint8), (*spec.size, 3))

    read = {"decode": decoded, "evaluate-before": before, "evaluate-pillow": pillow}[case]
    options = tf.data.Options()
    options.autotune.enabled = False  # its end would be waited for, as in `data.pipeline`
    photos = tf.data.Dataset.from_tensor_slices(list(paths)).repeat()
    photos = photos.map(read, num_parallel_calls=cpu_count(), deterministic=True)
    return photos.batch(batch).prefetch(2).with_options(options)


def keras_batches(folder: str, size: tuple[int, int], batch: int, labels: str | None = None) -> Any:
    """Photos as Keras' guides read them, cropped out of images an eighth larger.

    Args:
        folder: The photos.
        size: (height, width) of the crop.
        batch: Images per batch.
        labels: `"inferred"` for batches of (images, class numbers); None for images alone.
    """
    import keras
    import tensorflow as tf

    photos = keras.utils.image_dataset_from_directory(
        folder,
        labels=labels,
        image_size=tuple(round(side / 0.875) for side in size),
        batch_size=batch,
        seed=0,
        verbose=False,
    )
    augment = keras.Sequential(
        [keras.layers.RandomCrop(*size), keras.layers.RandomFlip("horizontal")]
    )

    def vary(images: Any, *labels: Any) -> Any:
        varied = augment(images, training=True)
        return (varied, *labels) if labels else varied

    photos = photos.repeat().map(vary, tf.data.AUTOTUNE)
    return photos.prefetch(tf.data.AUTOTUNE)


def crop_difference(split: Any, spec: Any) -> float:
    """Mean difference of a training crop to the antialiased crop of the same window, in levels."""
    import tensorflow as tf

    from keras_resnet18.data.stored import decoded_image

    def difference(number: Any, index: Any) -> Any:
        image, _ = split.stored(index)
        seed = tf.stack([tf.constant(0, tf.int64), number])
        ours = augmented(image, seed, spec=spec, flip=False)
        exact = augmented(decoded_image(image.whole()), seed, spec=spec, flip=False)
        return tf.reduce_mean(tf.abs(tf.cast(ours, tf.float32) - tf.cast(exact, tf.float32)))

    photos = split.elements(None, 0).shuffle(split.size, seed=0).take(_COMPARED).enumerate()
    found = [float(x) for x in photos.map(difference)]
    return round(sum(found) / len(found), 2)


def evaluation_difference(split: Any, paths: Sequence[str], spec: Any) -> int:
    """Largest difference of an evaluation image to Pillow's, in levels."""
    import numpy as np

    from keras_resnet18.images import read_image, resize_and_crop

    step = max(1, split.size // _COMPARED)
    largest = 0
    for index in range(0, split.size, step):
        ours = spec.resize_and_crop(split.fetch(index)[0]).numpy().astype(int)
        exact = resize_and_crop(read_image(paths[index]), spec)
        largest = max(largest, int(np.abs(ours - exact).max()))
    return largest


def make_mosaics(photos: Path, folder: Path, count: int) -> None:
    """Writes JPEGs of 640×480, each of nine photos in rows of three, into two classes."""
    import numpy as np
    from PIL import Image, ImageOps

    files = sorted(photos.rglob("*.jpg"))
    random = np.random.default_rng(0)
    for number in range(count):
        mosaic = Image.new("RGB", (640, 480))
        for place, file in enumerate(random.choice(len(files), 9)):
            with Image.open(files[file]) as photo:
                tile = ImageOps.fit(photo.convert("RGB"), (214, 160))
            mosaic.paste(tile, (place % 3 * 213, place // 3 * 160))
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        mosaic.save(path, quality=85)


def main() -> None:
    parser = options(__doc__, batch=64, rounds=5, seconds=5.0, rows="input-pipeline.jsonl")
    parser.add_argument("--folder", required=True, help="photos, a folder for each class")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--mosaics", type=at_least_one, metavar="N", help="of the photos")
    arguments = parser.parse_args()
    if arguments.case:
        answer(make_pipeline, *arguments.case, arguments.folder, arguments.size, arguments.batch)
        return
    with photos_of(arguments) as folder:
        rows = compare(
            {
                CASES[case]: [*command(__file__, arguments, case), "--folder", folder]
                for case in arguments.cases
            },
            # torch's Python need not have this package
            {"PYTHONPATH": str(Path(__file__).parents[2])},
            arguments,
            {"benchmark": "input_pipeline", **about_photos(arguments)},
        )
    print(f"\n{text(rows, RIVALS)}")


@contextlib.contextmanager
def photos_of(arguments: argparse.Namespace) -> Iterator[str]:
    """The folder of photos, or one of mosaics as long as they are measured."""
    with tempfile.TemporaryDirectory() as folder:
        if arguments.mosaics:
            make_mosaics(Path(arguments.folder), Path(folder), arguments.mosaics)
        yield folder if arguments.mosaics else arguments.folder


def about_photos(arguments: argparse.Namespace) -> Row:
    """What rows say of the photos."""
    name = Path(arguments.folder).resolve().name
    return {"photos": f"{arguments.mosaics} mosaics of {name}" if arguments.mosaics else name}


if __name__ == "__main__":
    main()
