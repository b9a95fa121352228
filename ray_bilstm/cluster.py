"""What each worker may claim of a cluster: plain arithmetic on the resources of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ray_bilstm.accelerator import Accelerator

SMALLEST_CPU_SHARE = 1 / 16
"""Of a core, for a worker without an accelerator."""
DRIVER_SHARE = 0.01
"""Of a core, for the process that drives a trial of a search: Ray Tune lets none claim nothing."""

Resources = Mapping[str, float]


class ClusterError(RuntimeError):
    """More workers than the cluster can hold."""


class Claim(NamedTuple):
    """What one worker claims, and how many threads it computes with."""

    resources: dict[str, float]
    threads: int


def count_accelerators(accelerator: Accelerator, nodes: Sequence[Resources]) -> int:
    """Whole devices of the cluster; CPU cores for cpu."""
    return sum(int(node.get(accelerator.resource, 0)) for node in nodes)


def plan_claim(
    accelerator: Accelerator, num_workers: int, nodes: Sequence[Resources], *, flag: str = "--num-workers"
) -> Claim:
    """The claim of each of `num_workers` workers, the number that `flag` sets. Raises ClusterError, with the
    arithmetic, where they do not fit.

    A worker with an accelerator claims one device and at most one core. Without, it claims the largest share of the
    cores that lets all workers fit on the nodes, in whole cores or in 1/2, 1/3, ... of one. Of several cores it leaves
    one to Ray and the system: OpenMP threads that wait for one another collapse when a core of theirs is taken.
    """
    cores = [node.get("CPU", 0.0) for node in nodes]
    if accelerator.name == "cpu":
        shares = [float(n) for n in range(int(max(cores, default=0)), 0, -1)]
        shares += [1 / n for n in range(2, round(1 / SMALLEST_CPU_SHARE) + 1)]
        share = next((share for share in shares if _fit(cores, share) >= num_workers), None)
        if share is None:
            raise ClusterError(
                _refusal(
                    num_workers, f"{SMALLEST_CPU_SHARE:g} CPU", cores, "CPU", _fit(cores, SMALLEST_CPU_SHARE), flag
                )
            )
        return Claim({"CPU": _floor(share)}, max(1, int(share) - 1))
    devices = [int(node.get(accelerator.resource, 0)) for node in nodes]
    if sum(devices) < num_workers:
        raise ClusterError(
            _refusal(num_workers, f"1 {accelerator.resource}", devices, accelerator.resource, sum(devices), flag)
        )
    per_device = min((core / n for core, n in zip(cores, devices, strict=True) if n), default=1.0)
    return Claim({accelerator.resource: 1, "CPU": _floor(min(1.0, per_device))}, max(1, int(per_device) - 1))


def plan_elastic_claim(accelerator: Accelerator, few: int, many: int, nodes: Sequence[Resources]) -> Claim:
    """The claim of each of `few` to `many` workers, that of `many` where they fit: it stays when nodes come and go.

    Whole cores: Ray Train counts those. Raises ClusterError, with the arithmetic, where not even `few` fit.
    """
    if accelerator.name != "cpu":
        room = count_accelerators(accelerator, nodes)
        return plan_claim(accelerator, max(few, min(many, room)), nodes)
    cores = [node.get("CPU", 0.0) for node in nodes]
    if _fit(cores, 1.0) < few:
        raise ClusterError(_refusal(few, "1 CPU", cores, "CPU", _fit(cores, 1.0)))
    return Claim({"CPU": 1.0}, 1)


def plan_trials(
    accelerator: Accelerator, num_workers: int, nodes: Sequence[Resources], *, most: int, asked: int | None = None
) -> tuple[int, Claim]:
    """How many trials of `num_workers` workers run at a time, `asked` or what fits up to `most`; a worker's claim.

    Together they claim no more than there is: a trial that has started never waits for another. Without an accelerator
    each worker gets at least one core while the cores last, else one trial runs at a time. Raises ClusterError, with
    the arithmetic, where not even one trial fits, or not as many as asked.
    """
    plan_claim(accelerator, num_workers, nodes)
    trials = asked or max(1, min(most, count_accelerators(accelerator, nodes) // num_workers))
    left = [{**node, "CPU": max(0.0, node.get("CPU", 0.0) - trials * DRIVER_SHARE)} for node in nodes]
    held = count_accelerators(accelerator, nodes)
    if accelerator.name == "cpu":
        held = _fit([node["CPU"] for node in left], SMALLEST_CPU_SHARE)
    if trials > 1 and trials * num_workers > held:
        raise ClusterError(
            f"--max-concurrent {trials} x --num-workers {num_workers} = {trials * num_workers} workers do not fit:"
            f" the cluster holds {held}. Lower --max-concurrent to {held // num_workers}, or add nodes"
        )
    return trials, plan_claim(accelerator, trials * num_workers, left)


def _fit(cores: Sequence[float], share: float) -> int:
    return sum(int(core / share + 1e-9) for core in cores)


def _floor(share: float) -> float:
    """Ray counts in 1/10,000."""
    return int(share * 10_000) / 10_000


def _refusal(
    num_workers: int, each: str, amounts: Sequence[float], resource: str, fit: int, flag: str = "--num-workers"
) -> str:
    asked = f"{flag} {num_workers} x {each} does not fit"
    if not fit:
        return f"{asked}: the cluster has no {resource}. Choose another --device, or start the nodes with it"
    nodes = " + ".join(f"{amount:g}" for amount in amounts)
    return (
        f"{asked}: the cluster has {nodes} {resource} on {len(amounts)} node{'s' * (len(amounts) != 1)},"
        f" which holds {fit} workers. Lower {flag} to {fit} or add nodes"
    )
