"""Write golden.npz: what an independent ResNet in plain torch makes of seeded weights and images.

Run it from the root of the repository (torch is needed for this only, not for the tests):

    python tests/golden/make_golden.py

Every input comes from numpy_weights.py. The program computes all in float32, and again in float64
to print the largest gap of each entry: the rounding that a test's tolerance must allow for.

Keys of golden.npz. Images and activations are NHWC, weights are in torch layout:

    made_with             (3,) versions of torch and NumPy, and the date
    logits/18, logits/34  (2, 10) evaluation mode, IMAGE_SHAPE
    logits/<network>_small  (1, 10) evaluation mode, an image of SMALL_SIZE; <network> is a key of
                          NETWORKS
    stage/names           (5,) "stem" (after the max pool), "layer1" ... "layer4"
    stage/shape           (5, 4) NHWC shape of that output at depth 18, IMAGE_SHAPE
    stage/probe           (5, 18) activation_probe(name, output)
    stage/<network>/...   the same two for the network and the image of <network>_small
    pool/<case>/out       (2, oh, ow, 3) adaptive average pooling, <case> as in pool_name
    pool/<case>/grad      (2, h, w, 3) gradient of sum(out * cotangent) by the input
    train/losses          (3,) mean cross-entropy at depth 18 on a batch of TRAIN_SHAPE, before
                          each step of SGD with LEARNING_RATE and MOMENTUM
    train/names           (102,) every tensor, in the order of resnet_shapes
    train/update          (102, 6) tensor_probe(name, value after step 1 - value before)
"""

from __future__ import annotations

import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy_weights as given
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # as all of torch writes it


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization whose running variance is over n, as in Keras; torch's is over n - 1."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, momentum=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = (1 - self.momentum) * self.running_var
        x = super().forward(x)
        if self.training:
            n = x.numel() // x.shape[1]
            self.running_var = kept + (self.running_var - kept) * (n - 1) / n
        return x


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution whose map is the input's, divided by the stride and rounded up."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, of stride 2 where the number of channels changes.

    There `deep` averages 2x2 values before it projects them.
    """

    def __init__(self, inputs: int, outputs: int, deep: bool) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = BatchNorm(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            project = nn.Conv2d(inputs, outputs, 1, stride=1 if deep else 2, bias=False)
            parts = [project, BatchNorm(outputs)]
            self.downsample = nn.Sequential(*([pool, *parts] if deep else parts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        # The sum comes before the last ReLU.
        return F.relu(residual + self.downsample(x))


class ResNet(nn.Module):
    """Basic-block ResNet: images (n, channels, h, w) to logits (n, classes)."""

    def __init__(self, network: given.Network) -> None:
        super().__init__()
        channels, width = network.channels, given.WIDTHS[0]
        self.conv1: nn.Module = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        if network.deep:
            first = [conv3x3(channels, 32, stride=2), BatchNorm(32), nn.ReLU()]
            second = [conv3x3(32, 32), BatchNorm(32), nn.ReLU()]
            self.conv1 = nn.Sequential(*first, *second, conv3x3(32, width))
        self.bn1 = BatchNorm(given.WIDTHS[0])
        inputs = given.WIDTHS[0]
        for name, width, count in zip(
            given.STAGES[1:], given.WIDTHS, given.BLOCKS[network.depth], strict=True
        ):
            widths = [inputs, *[width] * count]
            blocks = [BasicBlock(i, o, network.deep) for i, o in pairwise(widths)]
            self.add_module(name, nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(inputs, given.CLASSES)

    def stages(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the stem (after the max pool) and of the four stages, each NCHW."""
        x = F.relu(self.bn1(self.conv1(x)))
        outputs = {"stem": F.max_pool2d(x, 3, stride=2, padding=1)}
        for before, name in pairwise(given.STAGES):
            outputs[name] = self.get_submodule(name)(outputs[before])
        return outputs

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) from the last stage's (n, 512, h, w)."""
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(x)["layer4"])


def tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all weights and running statistics, torch names and layout."""
    return {
        name: value.detach().numpy().copy()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def seeded_model(network: given.Network, dtype: torch.dtype) -> ResNet:
    """The network with CLASSES classes and the seeded weights, evaluation mode."""
    model = ResNet(network)
    shapes = given.resnet_shapes(network.depth, given.CLASSES, network.channels, deep=network.deep)
    # The shapes that the tests use must be those of a real network, names and order included.
    actual = {name: value.shape for name, value in tensors(model).items()}
    if list(actual.items()) != list(shapes.items()):
        raise AssertionError("resnet_shapes disagrees with the torch module")
    weights = given.numpy_weights(shapes, given.WEIGHT_SEED)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    return model.to(dtype).eval()


def to_nchw(images: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(dtype)


def to_nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def evaluation_entries(dtype: torch.dtype) -> dict[str, np.ndarray]:
    images = to_nchw(given.numpy_images(given.IMAGE_SHAPE, given.IMAGE_SEED), dtype)
    entries = {"stage/names": np.array(given.STAGES)}
    with torch.no_grad():
        model = seeded_model(given.Network(), dtype)
        entries |= stage_entries("stage", model.stages(images))
        entries["logits/18"] = model(images).numpy()
        entries["logits/34"] = seeded_model(given.Network(depth=34), dtype)(images).numpy()
        for name, network in given.NETWORKS.items():
            image = given.numpy_images((1, *given.SMALL_SIZE, network.channels), given.IMAGE_SEED)
            model = seeded_model(network, dtype)
            outputs = model.stages(to_nchw(image, dtype))
            entries |= stage_entries(f"stage/{name}", outputs)
            entries[f"logits/{name}_small"] = model.head(outputs["layer4"]).numpy()
    return entries


def stage_entries(key: str, outputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The ``shape`` and the ``probe`` of the stages' outputs, each NCHW."""
    maps = {name: to_nhwc(value) for name, value in outputs.items()}
    return {
        f"{key}/shape": np.array([maps[name].shape for name in given.STAGES]),
        f"{key}/probe": np.stack(
            [given.activation_probe(name, maps[name]) for name in given.STAGES]
        ),
    }


def pool_entries(dtype: torch.dtype) -> dict[str, np.ndarray]:
    entries = {}
    for size, output in given.POOL_CASES:
        values, cotangent = given.pool_arrays(size, output, given.POOL_SEED)
        x = to_nchw(values, dtype).requires_grad_()
        pooled = F.adaptive_avg_pool2d(x, output)
        (grad,) = torch.autograd.grad((pooled * to_nchw(cotangent, dtype)).sum(), x)
        entries[f"pool/{given.pool_name(size, output)}/out"] = to_nhwc(pooled)
        entries[f"pool/{given.pool_name(size, output)}/grad"] = to_nhwc(grad)
    return entries


def train_entries(dtype: torch.dtype) -> dict[str, np.ndarray]:
    model = seeded_model(given.Network(), dtype).train()
    images = to_nchw(given.numpy_images(given.TRAIN_SHAPE, given.IMAGE_SEED), dtype)
    labels = torch.from_numpy(
        given.numpy_labels(given.TRAIN_SHAPE[0], given.CLASSES, given.LABEL_SEED)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=given.LEARNING_RATE, momentum=given.MOMENTUM)
    before, losses = tensors(model), []
    for step in range(3):
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            # Taken here, because each later pass moves the running statistics again.
            after = tensors(model)
    update = {k: after[k].astype(np.float64) - before[k].astype(np.float64) for k in after}
    return {
        "train/losses": np.array(losses),
        "train/names": np.array(list(after)),
        "train/update": np.stack([given.tensor_probe(k, v) for k, v in update.items()]),
    }


def entries_in(dtype: torch.dtype) -> dict[str, np.ndarray]:
    return evaluation_entries(dtype) | pool_entries(dtype) | train_entries(dtype)


def main() -> None:
    """Compute and write golden.npz beside this file, and print the rounding noise."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    entries = entries_in(torch.float32)
    for key, exact in entries_in(torch.float64).items():
        if exact.dtype.kind == "f":
            gap = np.abs(entries[key] - exact).max()
            print(f"{key:26} largest value {np.abs(exact).max():9.4g}  float32 gap {gap:.2g}")
            # Seven digits are all that a float32 run has; float64 would only double the file.
            entries[key] = entries[key].astype(np.float32)
        if key.startswith("logits/") and not 0.1 < np.abs(exact).max() < 30:
            raise AssertionError(f"{key} compares badly: activations explode or vanish")
    made_with = [torch.__version__, np.__version__, datetime.date.today().isoformat()]
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, made_with=np.array(made_with), **entries)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
