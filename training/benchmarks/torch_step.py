"""A training step of ResNet-18 in torch: the work of ours, the way torch's own users write it."""

from __future__ import annotations

import time
from typing import Any

import torch
from in_turn import process_peak_mib
from torch.nn import functional as F  # noqa: N812  # what torch's own users write
from torch_resnet18 import ResNet18

from keras_resnet18.preprocess import Preprocess
from keras_resnet18.recipe import Optimizer

# Low, as in the first steps of a warm-up, so that a batch trained again and again stays finite.
RATE = 0.001


class TorchStep:
    """ResNet-18, channels last, on one batch of pixels that lies in the device's memory.

    SGD with Nesterov momentum, decoupled weight decay of the kernels alone, label smoothing, loss
    and accuracy summed up: what a step of `keras_resnet18.train` does.

    Args:
        device: `"cpu"` or `"cuda"`.
        dtype: `"float32"`, or what autocast computes in: `"bfloat16"` or `"float16"`.
        compiled: Whether forward and backward pass go through `torch.compile`.
        size: Height and width, pixels.
        batch: Images per step.
    """

    def __init__(self, device: str, dtype: str, *, compiled: bool, size: int, batch: int) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.device, self.dtype = device, getattr(torch, dtype)
        recipe = Optimizer()
        self.smoothing, self.decay = recipe.label_smoothing, recipe.weight_decay
        model = ResNet18().to(device, memory_format=torch.channels_last).train()
        self.model = model
        self.kernels = [p for p in model.parameters() if p.ndim > 1]
        self.optimizer = torch.optim.SGD(
            model.parameters(), RATE, momentum=recipe.momentum, nesterov=True, fused=True
        )
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")
        scale, offset = Preprocess().scale_and_offset()
        self.scale = torch.tensor(scale, device=device).view(1, 3, 1, 1)
        self.offset = torch.tensor(offset, device=device).view(1, 3, 1, 1)
        # memory holds height, width, channels, as a decoder gives them
        pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=device)
        self.images = pixels.permute(0, 3, 1, 2)
        self.labels = torch.randint(0, 1000, (batch,), device=device)
        self.sums = torch.zeros(2, device=device)  # of losses and of right answers
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(images * self.scale + self.offset).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return loss, (logits.argmax(1) == labels).sum()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss, right = self.loss(self.images, self.labels)
        self.scaler.scale(loss).backward()
        with torch.no_grad():
            torch._foreach_mul_(self.kernels, 1 - RATE * self.decay)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.sums += torch.stack((loss.detach(), right))

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        start = time.perf_counter()
        for _ in range(steps):
            self._step()
        self.sums.tolist()  # waits for the device
        return time.perf_counter() - start

    def facts(self) -> dict[str, Any]:
        """Device and version."""
        card = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        return {"device": card, "torch": torch.__version__}

    def peak_mib(self) -> float:
        """Of the GPU's memory, tensors alone; on a CPU, of the process."""
        if self.device == "cpu":
            return process_peak_mib()
        return torch.cuda.max_memory_allocated() / 2**20
