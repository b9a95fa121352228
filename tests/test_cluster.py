"""The arithmetic of what a worker may claim."""

import argparse

import pytest

from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.cli_train import add_train_arguments, config_of
from ray_bilstm.cluster import (
    DRIVER_SHARE,
    ClusterError,
    count_accelerators,
    plan_claim,
    plan_elastic_claim,
    plan_trials,
)
from ray_bilstm.config import ConfigError

CPU, CUDA, NPU = (ACCELERATORS[name] for name in ("cpu", "cuda", "npu"))
TWO_BY_EIGHT = [{"CPU": 64.0, "NPU": 8.0}, {"CPU": 64.0, "NPU": 8.0}]


def cores(*counts):
    return [{"CPU": float(count), "memory": 1e9} for count in counts]


@pytest.mark.parametrize(
    ("num_workers", "nodes", "share"),
    [
        (1, cores(2), 2),
        (2, cores(2), 1),
        (3, cores(2), 0.5),
        (5, cores(2), 0.3333),
        (8, cores(2), 0.25),
        (32, cores(2), 0.0625),
        (1, cores(1), 1),
        (8, cores(1), 0.125),
        (1, cores(3, 3), 3),
        (2, cores(3, 3), 3),
        (3, cores(3, 3), 1),  # 2 each would hold one a node
        (4, cores(3, 3), 1),
        (6, cores(3, 3), 1),
        (7, cores(3, 3), 0.5),
        (4, cores(16, 2), 4),
        (8, cores(64), 8),
        (7, cores(64), 9),
    ],
)
def test_cpu_workers_share_the_cores(num_workers, nodes, share):
    claim = plan_claim(CPU, num_workers, nodes)
    assert claim.resources == {"CPU": share}
    assert 1 <= claim.threads <= max(1, share)
    assert sum(int(node["CPU"] / share) for node in nodes) >= num_workers, "all workers start"


@pytest.mark.parametrize(
    ("accelerator", "num_workers", "nodes", "resources"),
    [
        (CUDA, 1, [{"CPU": 16.0, "GPU": 1.0}], {"GPU": 1, "CPU": 1}),
        (CUDA, 8, [{"CPU": 2.0, "GPU": 8.0}], {"GPU": 1, "CPU": 0.25}),
        (CUDA, 4, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0}], {"GPU": 1, "CPU": 0.5}),
        (NPU, 16, TWO_BY_EIGHT, {"NPU": 1, "CPU": 1}),
        (NPU, 1, [{"NPU": 8.0}], {"NPU": 1, "CPU": 0}),
    ],
)
def test_an_accelerator_worker_claims_a_device_and_at_most_a_core(accelerator, num_workers, nodes, resources):
    claim = plan_claim(accelerator, num_workers, nodes)
    assert claim.resources == resources
    assert claim.threads >= 1


@pytest.mark.parametrize(
    ("accelerator", "num_workers", "nodes", "message"),
    [
        (
            CUDA,
            9,
            [{"CPU": 64.0, "GPU": 8.0}],
            "--num-workers 9 x 1 GPU does not fit: the cluster has 8 GPU on 1 node, which holds 8 workers."
            " Lower --num-workers to 8 or add nodes",
        ),
        (
            NPU,
            17,
            TWO_BY_EIGHT,
            "the cluster has 8 + 8 NPU on 2 nodes, which holds 16 workers. Lower --num-workers to 16",
        ),
        (NPU, 1, cores(8), "--num-workers 1 x 1 NPU does not fit: the cluster has no NPU. Choose another --device"),
        (CUDA, 2, [*cores(8), {"GPU": 1.0}], "the cluster has 0 + 1 GPU on 2 nodes, which holds 1 worker"),
        (
            CPU,
            33,
            cores(2),
            "--num-workers 33 x 0.0625 CPU does not fit: the cluster has 2 CPU on 1 node, which holds 32",
        ),
        (CPU, 1, [], "the cluster has no CPU"),
    ],
)
def test_more_workers_than_fit_are_refused_with_the_arithmetic(accelerator, num_workers, nodes, message):
    with pytest.raises(ClusterError) as caught:
        plan_claim(accelerator, num_workers, nodes)
    assert message in str(caught.value)


def test_counting_devices():
    assert count_accelerators(NPU, TWO_BY_EIGHT) == 16
    assert count_accelerators(CUDA, TWO_BY_EIGHT) == 0
    assert count_accelerators(CPU, cores(3, 2.5)) == 5


@pytest.mark.parametrize(
    ("nodes", "workers", "most", "expected"),
    [
        ([{"CPU": 2}], 1, 20, (2, {"CPU": 0.5}, 1)),
        ([{"CPU": 1}], 1, 20, (1, {"CPU": 0.5}, 1)),
        ([{"CPU": 1}], 4, 20, (1, {"CPU": 0.2}, 1)),
        ([{"CPU": 64}], 1, 20, (20, {"CPU": 3}, 2)),
        ([{"CPU": 64}], 8, 20, (8, {"CPU": 0.5}, 1)),
        ([{"CPU": 8}, {"CPU": 8}], 2, 3, (3, {"CPU": 2}, 1)),
    ],
)
def test_trials_fit_side_by_side(nodes, workers: int, most: int, expected) -> None:
    trials, claim = plan_trials(CPU, workers, nodes, most=most)
    assert (trials, claim.resources, claim.threads) == expected
    claimed = trials * (workers * claim.resources["CPU"] + DRIVER_SHARE)
    assert claimed <= sum(node["CPU"] for node in nodes)


def test_trials_share_accelerators() -> None:
    nodes = [{"CPU": 96, "NPU": 8}, {"CPU": 96, "NPU": 8}]
    assert plan_trials(NPU, 4, nodes, most=20)[0] == 4
    assert plan_trials(NPU, 3, nodes, most=20)[0] == 5
    trials, claim = plan_trials(NPU, 1, [{"CPU": 8, "NPU": 8}], most=20)
    assert trials == 8
    assert claim.resources["NPU"] == 1
    assert 8 * (claim.resources["CPU"] + DRIVER_SHARE) <= 8


def test_impossible_searches_are_refused_with_the_arithmetic() -> None:
    nodes = [{"CPU": 32, "GPU": 4}]
    with pytest.raises(ClusterError, match=r"--num-workers 5 x 1 GPU does not fit.*4 GPU on 1 node, which holds 4"):
        plan_trials(CUDA, 5, nodes, most=3)
    with pytest.raises(
        ClusterError,
        match=r"^--max-concurrent 3 x --num-workers 2 = 6 workers do not fit: the cluster holds 4."
        r" Lower --max-concurrent to 2, or add nodes$",
    ):
        plan_trials(CUDA, 2, nodes, most=3, asked=3)
    assert plan_trials(CUDA, 2, nodes, most=3, asked=1)[0] == 1


@pytest.mark.parametrize(
    ("accelerator", "nodes", "expected"),
    [
        (CPU, cores(1, 1), ({"CPU": 1.0}, 1)),
        (CPU, cores(64), ({"CPU": 1.0}, 1)),
        (CUDA, [{"CPU": 8.0, "GPU": 2.0}], ({"GPU": 1, "CPU": 1.0}, 3)),
        (NPU, TWO_BY_EIGHT, plan_claim(NPU, 8, TWO_BY_EIGHT)),
    ],
)
def test_an_elastic_run_claims_the_same_whatever_comes_and_goes(accelerator, nodes, expected):
    assert tuple(plan_elastic_claim(accelerator, 2, 8, nodes)) == tuple(expected)


def test_an_elastic_run_needs_room_for_its_least():
    with pytest.raises(ClusterError, match=r"--num-workers 3 x 1 CPU does not fit: .* which holds 2 workers"):
        plan_elastic_claim(CPU, 3, 8, cores(1, 1))
    with pytest.raises(ClusterError, match=r"--num-workers 2 x 1 GPU does not fit"):
        plan_elastic_claim(CUDA, 2, 8, [{"CPU": 8.0, "GPU": 1.0}])


def test_a_range_of_workers_is_two_settings():
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    run = config_of(parser.parse_args(["--num-workers", "2..8"])).run
    assert (run.min_workers, run.num_workers) == (2, 8)
    run = config_of(parser.parse_args(["--num-workers", "8"])).run
    assert (run.min_workers, run.num_workers) == (None, 8)
    with pytest.raises(ConfigError, match="min_workers is 8: expected 1 to 2"):
        config_of(parser.parse_args(["--num-workers", "8..2"]))


@pytest.mark.parametrize("words", ["2..", "..8", "2..x", "two", "2...8"])
def test_what_is_no_range_of_workers_is_refused(words, capsys):
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--num-workers", words])
    assert "expected a number, or a range such as 2..8" in capsys.readouterr().err
