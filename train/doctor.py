"""What the doctor looks at for training: torch, its packages, and the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "timm", "open-clip-torch", "transformers", "safetensors")
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where a driver of NVIDIA's is loaded."""

Check = dict[str, str]
"""what, state (ok, warning, wrong), said, fix: as `python -m pipeline doctor` prints them."""


def examine() -> Iterator[Check]:
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield check("train", "wrong", f"not installed: {', '.join(missing)}", "make setup")
        return
    yield check("train", "ok", ", ".join(found))
    try:
        yield from _gpu()
    except (ImportError, OSError, RuntimeError) as error:
        yield check("torch", "wrong", f"does not work: {str(error)[:200]}", "make setup makes .venv anew")


def _gpu() -> Iterator[Check]:
    """Each GPU with its memory, and whether it can add two numbers."""
    import torch

    if not torch.cuda.is_available():
        if NVIDIA.exists():
            said = f"there is a driver, but torch {torch.__version__} sees no GPU"
            yield check("gpu", "warning", said, "check nvidia-smi and CUDA_VISIBLE_DEVICES; torch must be a CUDA build")
        else:
            yield check(
                "gpu", "ok", "none: training runs on the cores (the demo does in minutes, a ResNet-50 in weeks)"
            )
        return
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        whole = int(torch.ones(2, device=f"cuda:{k}").sum().item()) == 2
        said = f"{torch.cuda.get_device_name(k)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        yield check("gpu", "ok" if whole else "wrong", said, "" if whole else "it does not compute: check dmesg")


def check(what: str, state: str, said: str, fix: str = "") -> Check:
    return {"what": what, "state": state, "said": said, "fix": fix}
