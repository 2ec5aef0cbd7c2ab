"""The device and precision of the network."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import torch

from recon.core.errors import SettingsError
from recon.core.machine import look_at_machine
from recon.core.stopwatch import peak_memory
from recon.network.model import GeometryNetwork

PEAK_OF_PROCESS, RESET_PEAK = Path("/proc/self/clear_refs"), "5"  # see proc(5)
KINDS = ("cpu", "cuda")
# PyTorch's messages where it has no exception for this: on the CPU, and if a CUDA library runs out of memory.
SHORTAGES = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def choose_device(wanted: str) -> torch.device:
    """``auto`` (CUDA if there is a GPU, else the CPU) or a device's name.

    Raises SettingsError for a missing device, and for kinds without double precision, such as Apple's.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type not in KINDS:
            raise RuntimeError(f"the network runs on {' and '.join(KINDS)} only")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"--device {wanted} cannot be used here ({reason}). Use cpu or auto.") from error
    return device


def precision(device: torch.device) -> torch.autocast:
    """The context for the blocks: 16 bits on a GPU, full precision elsewhere. Heads are always float32."""
    if device.type != "cuda":
        return torch.autocast(device.type, enabled=False)
    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=half)


def compile_blocks(network: GeometryNetwork, backend: str = "inductor") -> None:
    """Let torch.compile fuse the frame blocks. They are alike, so one compilation serves all."""
    aggregator = network.aggregator
    for module in aggregator.modules():
        blocks = getattr(module, "frame_blocks", None) or getattr(module, "blocks", None)
        for block in blocks or ():
            block.compile(backend=backend)


def is_shortage(error: RuntimeError) -> bool:
    """Whether PyTorch ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SHORTAGES)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def free_memory(device: torch.device) -> int:
    """Bytes free on the device now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else look_at_machine(Path()).memory


def finish(device: torch.device) -> None:
    """Wait until a GPU has finished its queue; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Free unused GPU memory and reset its peak; on a CPU, reset that of the process, where Linux allows it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            PEAK_OF_PROCESS.write_text(RESET_PEAK)


def peak_bytes(device: torch.device) -> int:
    """The most GPU memory since ``forget_peak``; on a CPU, the most resident memory of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
