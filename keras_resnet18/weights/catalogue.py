"""Published weights: their repositories, hashes and preprocessing, and their download."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path

from keras_resnet18.errors import InputError, nearest
from keras_resnet18.preprocess import Preprocess

FILENAME = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Published:
    """Classifier of ImageNet's 1,000 classes in a repository of the Hugging Face Hub.

    Attributes:
        repository: `owner/name` on the Hub, with the file `model.safetensors`.
        revision: Full commit hash; the Hub's client resolves no shorter one.
        sha256: SHA-256 of the file, in hexadecimal.
        license: SPDX identifier of the weights' license.
        preprocess: Preprocessing that the network expects and `top1` was measured with.
        top1: Published accuracy on ImageNet's validation images, in percent, or None.
        network: `"resnet18"`, or `"resnet18d"` for ResNet-D.
    """

    repository: str
    revision: str
    sha256: str
    license: str
    preprocess: Preprocess
    top1: float | None
    network: str = "resnet18"

    @property
    def name(self) -> str:
        """Name that `weights=` takes: timm's model name, or the repository of another owner."""
        return self.repository.removeprefix("timm/")


_BICUBIC_95 = Preprocess(crop_ratio=0.95, interpolation="bicubic")
_BICUBIC = Preprocess(interpolation="bicubic")

# Accuracies are from the model cards and timm's results-imagenet.csv. torchvision's file
# resnet18-f37072fd.pth is not here: resnet18.tv_in1k has the same weights and needs no torch.
CATALOGUE = (
    Published(
        repository="timm/resnet18.a1_in1k",
        revision="b9c542640ca04a6acab6e1ecff124a2d6ef1951d",
        sha256="80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        license="Apache-2.0",
        preprocess=_BICUBIC_95,
        top1=71.50,
    ),
    Published(
        repository="timm/resnet18.a3_in1k",
        revision="3edbf22272fbbca56c25be1d4f1f3055bed72ee0",
        sha256="f049dd3c2e08176be8844dd123467fa5714cff1f141dcfe0ab4975e567f9de21",
        license="Apache-2.0",
        preprocess=_BICUBIC_95,
        top1=68.25,
    ),
    Published(
        repository="timm/resnet18.tv_in1k",
        revision="a987fd6b60f845221bfff84b6f0191273ba56ead",
        sha256="694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
        license="BSD-3-Clause",
        preprocess=Preprocess(),
        top1=69.75,
    ),
    Published(
        repository="timm/resnet18.gluon_in1k",
        revision="d1f0449ae79ac3ed64418fe613b3d8cf28a4252e",
        sha256="6991fcc0c58379a8496f6273b2f211e492f6af6494041fded649a482772ad2bf",
        license="Apache-2.0",
        preprocess=_BICUBIC,
        top1=70.84,
    ),
    Published(
        repository="timm/resnet18d.ra2_in1k",
        revision="591cf0147ae10b2e3284b25e0516b2bc5ab17780",
        sha256="0ad5d924c4269ad863590b6ccdd19f5fb48d0bae695c1dd6751de0b0282d8361",
        license="Apache-2.0",
        preprocess=_BICUBIC,
        top1=72.30,
        network="resnet18d",
    ),
    Published(
        repository="microsoft/resnet-18",
        revision="f45a6faa12e0381f5620c5c8d7e916bca90f2c44",
        sha256="1cf00ee468998c23d084361b02cffadabacb5074105564c596b8079f77ecb126",
        license="Apache-2.0",
        preprocess=_BICUBIC,
        top1=None,
    ),
)

ALIASES = {"imagenet": "resnet18.a1_in1k"}


def find_weights(name: str) -> Published:
    """Finds published weights by name, such as `"imagenet"` or `"resnet18.tv_in1k"`.

    Raises:
        InputError: If the name is unknown.
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
    """Returns the file of published weights, from the Hub's cache or downloaded into it.

    The SHA-256 is checked at each call, and a file that fails is removed from the cache. A cached
    file needs no network. Without one, the Hub's client gives up after about 24 seconds, or at once
    with HF_HUB_OFFLINE=1.

    Raises:
        InputError: If the download fails, or the file is not the published one.
    """
    path = _download(entry)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        with contextlib.suppress(OSError):  # a cache that others own
            path.resolve().unlink()  # the target of the cache's link
        raise InputError(
            f"{FILENAME} of {entry.repository} must have the sha256 {entry.sha256}. Received: "
            f"{found}. Try again; if {path.resolve()} is still there, delete it first"
        )
    return path


def table() -> str:
    """Formats the catalogue for people: names, accuracies, repositories and hashes."""
    row = "{:19}  {:9}  {:12}  {:24}  {}".format
    lines = [row("name", "network", "license", "evaluation", "top-1")]
    for entry in CATALOGUE:
        size, how = "×".join(map(str, entry.preprocess.size)), entry.preprocess
        evaluation = f"{size} / {how.crop_ratio:g} {how.interpolation}"
        top1 = "-" if entry.top1 is None else f"{entry.top1:.2f} %"
        lines.append(row(entry.name, entry.network, entry.license, evaluation, top1))
    lines += ["", *(f"{alias} is {name}" for alias, name in ALIASES.items())]
    lines += ["", f"The files, {FILENAME} of repository@revision, and their sha256:"]
    for entry in CATALOGUE:
        lines += [f"{entry.repository}@{entry.revision}", f"  {entry.sha256}"]
    return "\n".join(lines)


def _download(entry: Published) -> Path:
    """Returns the path of the file in the cache, after a download if needed."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        return Path(
            huggingface_hub.hf_hub_download(entry.repository, FILENAME, revision=entry.revision)
        )
    except Exception as error:  # network, proxy, Hub and disk errors share no base class
        folder = repo_folder_name(repo_id=entry.repository, repo_type="model")
        place = Path(constants.HF_HUB_CACHE, folder, "snapshots", entry.revision, FILENAME)
        # the client's messages begin with the fact, and general advice follows
        reason = str(error.__cause__ or error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"{FILENAME} of {entry.repository} could not be downloaded. Received: "
            f"{reason or type(error).__name__}. Download it on another machine and put it at "
            f"{place}, where HF_HUB_OFFLINE=1 finds it too, or pass its path as weights"
        ) from error
