"""Weights that others published: where they lie, which bytes they are, and what they expect."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import warnings
from pathlib import Path

from keras_resnet18.errors import InputError, nearest
from keras_resnet18.preprocess import Preprocess

FILENAME = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Published:
    """A classifier of ImageNet's 1,000 classes in a repository of the Hugging Face hub.

    Attributes:
        repository: `owner/name` on the hub. The file in it is `model.safetensors`.
        revision: The whole commit; the hub's client knows no shorter ones.
        sha256: Of the file, in hexadecimal.
        licence: Of the weights, by its SPDX identifier.
        preprocess: What the network expects, and what `top1` was measured with.
        top1: Percent of ImageNet's validation images, as published; None if it was not.
        depth: Of the network, 18 or 34.
        variant: `""` for the paper's network, `"d"` for ResNet-D.
    """

    repository: str
    revision: str
    sha256: str
    licence: str
    preprocess: Preprocess
    top1: float | None
    depth: int = 18
    variant: str = ""

    @property
    def name(self) -> str:
        """What `weights=` takes: timm's own name, or the repository if it is somebody else's."""
        return self.repository.removeprefix("timm/")

    @property
    def network(self) -> str:
        """`"resnet18"`, `"resnet18d"`, …"""
        return f"resnet{self.depth}{self.variant}"


_BICUBIC_95 = Preprocess(crop_ratio=0.95, interpolation="bicubic")
_BICUBIC = Preprocess(interpolation="bicubic")

# Accuracies from the repositories' model cards and timm's results-imagenet.csv. torchvision's own
# resnet18-f37072fd.pth is not here: resnet18.tv_in1k has the same weights, and needs no torch.
CATALOGUE = (
    Published(
        repository="timm/resnet18.a1_in1k",
        revision="b9c542640ca04a6acab6e1ecff124a2d6ef1951d",
        sha256="80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        licence="Apache-2.0",
        preprocess=_BICUBIC_95,
        top1=71.50,
    ),
    Published(
        repository="timm/resnet18.a3_in1k",
        revision="3edbf22272fbbca56c25be1d4f1f3055bed72ee0",
        sha256="f049dd3c2e08176be8844dd123467fa5714cff1f141dcfe0ab4975e567f9de21",
        licence="Apache-2.0",
        preprocess=_BICUBIC_95,
        top1=68.25,
    ),
    Published(
        repository="timm/resnet18.tv_in1k",
        revision="a987fd6b60f845221bfff84b6f0191273ba56ead",
        sha256="694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
        licence="BSD-3-Clause",
        preprocess=Preprocess(),
        top1=69.75,
    ),
    Published(
        repository="timm/resnet18.gluon_in1k",
        revision="d1f0449ae79ac3ed64418fe613b3d8cf28a4252e",
        sha256="6991fcc0c58379a8496f6273b2f211e492f6af6494041fded649a482772ad2bf",
        licence="Apache-2.0",
        preprocess=_BICUBIC,
        top1=70.84,
    ),
    Published(
        repository="timm/resnet18d.ra2_in1k",
        revision="591cf0147ae10b2e3284b25e0516b2bc5ab17780",
        sha256="0ad5d924c4269ad863590b6ccdd19f5fb48d0bae695c1dd6751de0b0282d8361",
        licence="Apache-2.0",
        preprocess=_BICUBIC,
        top1=72.30,
        variant="d",
    ),
    Published(
        repository="microsoft/resnet-18",
        revision="f45a6faa12e0381f5620c5c8d7e916bca90f2c44",
        sha256="1cf00ee468998c23d084361b02cffadabacb5074105564c596b8079f77ecb126",
        licence="Apache-2.0",
        preprocess=_BICUBIC,
        top1=None,
    ),
)

ALIASES = {"imagenet": "resnet18.a1_in1k"}


def find_weights(name: str) -> Published:
    """The weights of this name, such as `"imagenet"` or `"resnet18.tv_in1k"`.

    Raises:
        InputError: If there are none.
    """
    named = {entry.name: entry for entry in CATALOGUE}
    entry = named.get(ALIASES.get(name, name))
    if entry is None:
        known = [*ALIASES, *named]
        raise InputError(
            f"weights must be one of {', '.join(known)}{nearest(name, known)}, or the path of a "
            f"checkpoint with its ending, such as .safetensors. Received: weights={name!r}"
        )
    return entry


def fetch(entry: Published) -> Path:
    """The file of published weights, downloaded into the hub's cache unless it is there.

    What is in the cache is used without a network, and its sha256 is checked each time, in a
    fraction of a second. A file of other bytes is removed, so that the next call downloads it anew.
    Where there is no network, the hub's client gives up after about 24 seconds, or at once with
    HF_HUB_OFFLINE=1. Weights that are not free for commercial use are a warning.

    Raises:
        InputError: If the file cannot be had, or is not the one that was published.
    """
    if "-NC-" in entry.licence:
        warnings.warn(f"{entry.name}: {entry.licence}, no commercial use", stacklevel=2)
    path = _download(entry)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        _remove(path)
        raise InputError(
            f"{FILENAME} of {entry.repository} must have the sha256 {entry.sha256}. Received: "
            f"{path} with {found}. "
            + ("Remove it and try again" if path.exists() else "It was removed: try again")
        )
    return path


def table() -> str:
    """The catalogue for a person: what there is, and where each file lies."""
    rows = [("name", "network", "licence", "evaluation", "top-1")]
    for entry in CATALOGUE:
        height, width = entry.preprocess.size
        rows.append(
            (
                entry.name,
                entry.network,
                entry.licence,
                f"{height}×{width} / {entry.preprocess.crop_ratio:g} "
                f"{entry.preprocess.interpolation}",
                "-" if entry.top1 is None else f"{entry.top1:.2f} %",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += ["", *(f"{alias} is {name}" for alias, name in ALIASES.items())]
    lines += ["", f"The files, {FILENAME} of repository@revision, and their sha256:"]
    for entry in CATALOGUE:
        lines += [f"{entry.repository}@{entry.revision}", f"  {entry.sha256}"]
    return "\n".join(lines)


def _download(entry: Published) -> Path:
    """Where the file lies in the cache, whatever it holds."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        return Path(
            huggingface_hub.hf_hub_download(entry.repository, FILENAME, revision=entry.revision)
        )
    except Exception as error:  # of the network, the proxy, the hub, the disk: they share no base
        folder = repo_folder_name(repo_id=entry.repository, repo_type="model")
        place = Path(constants.HF_HUB_CACHE, folder, "snapshots", entry.revision, FILENAME)
        # the client wraps what went wrong in general advice; its texts begin with the fact
        reason = str(error.__cause__ or error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"{FILENAME} of {entry.repository} could not be downloaded. Received: "
            f"{reason or type(error).__name__}. "
            f"Get the file on another machine and put it at {place}, where it is found also with "
            "HF_HUB_OFFLINE=1, or give its path as weights"
        ) from error


def _remove(path: Path) -> None:
    """Removes a file of the cache, with the links that lead to it."""
    chain = [path]
    while chain[-1].is_symlink():
        chain.append(chain[-1].parent / chain[-1].readlink())
    with contextlib.suppress(OSError):  # a cache that others own
        for part in reversed(chain):
            part.unlink()
