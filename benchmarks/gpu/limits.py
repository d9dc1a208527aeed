"""What the machine is, and what it can do at best: the limits of all that follows."""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch

from benchmarks.gpu.job import Job
from benchmarks.gpu.library import circumstances
from benchmarks.gpu.record import Record
from benchmarks.limit import product_flops
from benchmarks.timing import synchronize

PACKAGES = ("torch", "torchvision", "triton", "numpy", "jax", "jaxlib", "safetensors")

CLOCKS = (
    "pstate",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "utilization.gpu",
)
"""What nvidia-smi is asked for: MHz, degrees Celsius, watts, per cent."""

PRECISIONS = ("float32", "tf32", "bf16")


def measure(job: Job) -> None:
    """Fill the report of this stage; README.md names its keys."""
    report = job.report
    report.add(dry=job.dry, **circumstances(job.device) | software(job.device))
    report.add(card=card(job.device), clocks={"idle": clocks(), "busy": None})
    report.add(copy_bytes_per_second=copy_rate(job))
    sizes = (64, 128) if job.dry else (1024, 4096, 8192)
    rates: Record = {name: {} for name in PRECISIONS}
    for size in sizes:
        for name in PRECISIONS:
            rates[name][str(size)] = gemm_rate(job, name, size)
            report.add(gemm_flops_per_second=rates)
    report.add(clocks=report.result["clocks"] | {"busy": clocks()})
    stacks: Record = {name: {} for name in PRECISIONS}
    for tasks in (2, 3) if job.dry else (5, 15, 32, 256):
        for name in PRECISIONS:
            stacks[name][str(tasks)] = stack_rate(job, name, tasks)
            report.add(stack_flops_per_second=stacks)
    report.add(launch_seconds=launches(job))


def software(device: torch.device) -> Record:
    """Return the versions of the packages and of the libraries under torch."""
    versions: Record = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    on_gpu = device.type == "cuda"
    versions["cuda"] = torch.version.cuda if on_gpu else None
    versions["cudnn"] = torch.backends.cudnn.version() if on_gpu else None
    versions["driver"] = _nvidia_smi("driver_version")["driver_version"]
    return {"versions": versions, "cpu_threads": torch.get_num_threads()}


def card(device: torch.device) -> Record:
    """Return what torch says about the GPU; None where there is none."""
    names = {
        "name": "name",
        "memory_bytes": "total_memory",
        "multiprocessors": "multi_processor_count",
        "cache_bytes": "L2_cache_size",
    }
    found = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    about: Record = {key: getattr(found, of, None) for key, of in names.items()}
    about["capability"] = f"{found.major}.{found.minor}" if found else None
    return about | {"count": torch.cuda.device_count() if found else 0}


def clocks() -> Record:
    """Return clocks, temperature and power as nvidia-smi tells them, as text."""
    return _nvidia_smi(*CLOCKS)


def _nvidia_smi(*fields: str) -> Record:
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=8, check=True
        )
        values: list[str | None] = [
            part.strip() for part in done.stdout.splitlines()[0].split(",")
        ]
    except (OSError, subprocess.SubprocessError, IndexError):
        values = []
    values += [None] * (len(fields) - len(values))
    names = (field.replace(".", "_") for field in fields)
    return dict(zip(names, values, strict=False))


def per_call(function: Callable[[], object], job: Job, seconds: float = 0.15) -> float:
    """Return the median time of a call, over five rounds of about `seconds` / 5."""

    def timed(count: int) -> float:
        synchronize(job.device)
        began = time.perf_counter()
        for _ in range(count):
            function()
        synchronize(job.device)
        return (time.perf_counter() - began) / count

    timed(3)
    seconds = 0.01 if job.dry else seconds
    count = max(1, min(1_000, round(seconds / 5 / timed(2))))
    return median(timed(count) for _ in range(5))


def copy_rate(job: Job) -> float:
    """Return bytes read plus bytes written a second, copying 1 GiB on the device."""
    source = torch.rand(2**14 if job.dry else 2**28, device=job.device)
    target = torch.empty_like(source)
    seconds = per_call(lambda: target.copy_(source), job)
    return 2 * source.nbytes / seconds


def _factors(job: Job, precision: str, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return [torch.randn(shape, device=job.device).to(dtype) for shape in shapes]


def _product_seconds(
    job: Job, precision: str, left: tuple[int, ...], right: tuple[int, ...]
) -> float:
    a, b = _factors(job, precision, left, right)
    out = torch.matmul(a, b)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return per_call(lambda: torch.matmul(a, b, out=out), job)
    finally:
        torch.set_float32_matmul_precision(before)


def gemm_rate(job: Job, precision: str, size: int) -> float:
    """Return operations a second of a product of square matrices."""
    square = (size, size)
    return product_flops(size) / _product_seconds(job, precision, square, square)


def stack_rate(job: Job, precision: str, tasks: int) -> float:
    """Return operations a second of Conv4's largest product, stacked for some tasks.

    It is the second layer's, for minibatches of 10: [n, 490, 576] @ [n, 576, 64].
    """
    rows, inner, columns = 10 * 7 * 7, 9 * 64, 64
    seconds = _product_seconds(
        job, precision, (tasks, rows, inner), (tasks, inner, columns)
    )
    return 2 * tasks * rows * inner * columns / seconds


def launches(job: Job) -> Record:
    """Return what a tiny kernel costs: asked for one by one, and in a CUDA graph."""
    x = torch.zeros(16, device=job.device)
    found: Record = {"eager": per_call(lambda: x.add_(1), job), "graph": None}
    if job.device.type == "cuda":
        count, graph = 200, torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                x.add_(1)
        found["graph"] = per_call(graph.replay, job) / count
    return found
