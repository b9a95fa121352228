"""The product on a simulated NPU: `tests/simulated_npu` on PYTHONPATH stands in for torch_npu.

Everything runs in processes of its own, since a process that has the device cannot lose it again. Level (a) of the
evidence for NPUs; `tests/torch_npu_on_stub` is level (b), `pytest --device npu` on hardware level (c).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_bilstm import Tagger
from ray_bilstm.corpus import write_sentences
from ray_bilstm.sample import sample_corpus

ROOT = Path(__file__).parent.parent
DOUBLE = ROOT / "tests" / "simulated_npu"
SMALL = [
    *("--embedding-size", "16", "--bigram-size", "8", "--hidden-size", "16", "--dropout", "0"),
    *("--token-dropout", "0", "--mention-replacement", "0"),
    *("--learning-rate", "0.02", "--batch-size", "48", "--train-epochs", "3"),
]


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join([str(DOUBLE), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": "local", **variables}


def run(words: list, timeout: int, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=environment(**variables),
    )


def test_the_double_does_what_it_says() -> None:
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", DOUBLE / "check_double.py", "--device", "npu"], 200)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize(
    ("chip", "skipped"), [("Ascend910B3", 0), pytest.param("Ascend910A", 5, marks=pytest.mark.slow)]
)
def test_the_tests_of_tensors_pass_on_it(chip: str, skipped: int) -> None:
    """Twenty steps against the CPU, no waiting, few shapes, overflow; on 910A, bfloat16 is skipped as not to be had."""
    files = [ROOT / "tests" / f"test_{name}.py" for name in ("device", "crf", "model")]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "--device", "npu"]
    done = run(words, 280, SIMULATED_NPU_SOC=chip)
    assert done.returncode == 0, done.stdout[-5000:]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    assert counts.get("skipped", 0) == skipped
    assert counts["passed"] > 50


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder, sample = tmp_path_factory.mktemp("corpus"), sample_corpus()
    for split, sentences in (("train", sample.train[:203]), ("dev", sample.dev[:40]), ("test", sample.test[:40])):
        write_sentences(folder / f"{split}.char.bmes", sentences, scheme="BMES")
    return folder


RUN = """
import ray, sys
ray.init("local", num_cpus=2, resources={"NPU": 8}, log_to_driver=False)
from ray_bilstm.cli import train_job
sys.exit(train_job(sys.argv[1:], description="", num_workers=2))
"""


def train(tmp_path: Path, data_dir: Path, *arguments: str, **variables: str) -> dict:
    words = ["-c", RUN, "--data-dir", data_dir, "--output-dir", tmp_path, *SMALL, *arguments]
    done = run(words, 280, **variables)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow
def test_workers_on_npus_do_what_workers_on_cpus_do(data_dir, tmp_path) -> None:
    npu = train(tmp_path / "npu", data_dir, "--device", "npu", "--amp-opt-level", "O0")
    cpu = train(tmp_path / "cpu", data_dir, "--device", "cpu", "--amp-opt-level", "O0")
    assert [npu[key] for key in ("name", "device", "backend", "num_workers")] == ["2p-npu", "npu", "hccl", 2]
    assert npu["device_name"] == "Ascend910B3 (simulated)"
    assert npu["versions"]["torch_npu"] == "2.13.0+simulated"
    histories = [
        [json.loads(line)["train_loss"] for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("npu", "cpu")
    ]
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    assert npu["test"]["entity"]["f1"] == pytest.approx(cpu["test"]["entity"]["f1"], abs=0.03)


LOOK = """
import json, os, sys, tempfile
from pathlib import Path
import ray
from ray_bilstm import cluster, launch
from ray_bilstm.accelerator import ACCELERATORS

def look(settings):
    import torch, torch.distributed as dist
    from ray_bilstm import collective
    calls = [call for call in torch.npu.log if call[0] in ("set_device", "set_compile_mode", "hccl")]
    own = [os.environ["ASCEND_RT_VISIBLE_DEVICES"], torch.npu.device_count(), dist.get_backend(), calls]
    seen = [None] * dist.get_world_size()
    dist.all_gather_object(seen, own, group=collective._host_group)
    return seen

ray.init("local", num_cpus=2, resources={"NPU": 8}, log_to_driver=False)
npu = ACCELERATORS["npu"]
claim = cluster.plan_claim(npu, 8, [node["Resources"] for node in ray.nodes()])
with tempfile.TemporaryDirectory() as storage:
    trainer = launch.make_trainer(look, {}, chosen=npu, num_workers=8, claim=claim, storage=Path(storage))
    print(json.dumps(trainer.fit().return_value))
"""


@pytest.mark.slow
def test_each_of_eight_workers_has_an_npu_of_its_own(tmp_path) -> None:
    script = tmp_path / "look.py"
    script.write_text(LOOK)
    done = run([script], 200)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert sorted(visible for visible, *_ in seen) == [str(device) for device in range(8)]
    assert {(count, backend) for _, count, backend, _ in seen} == {(1, "hccl")}
    for *_, calls in seen:
        assert [call[0] for call in calls[:3]] == ["set_device", "set_compile_mode", "hccl"]
        assert calls[2][2] == 8, "the group comes last, and has all ranks"


@pytest.mark.parametrize("level", [pytest.param("O1", marks=pytest.mark.slow), "O2"])
def test_half_precision_on_npus_is_float16_with_the_lstm_in_float32(level, data_dir, tmp_path) -> None:
    result = train(tmp_path, data_dir, "--device", "auto", "--amp-opt-level", level)
    assert [result[key] for key in ("device", "dtype", "lstm_dtype")] == ["npu", "float16", "float32"]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert (history[0]["skipped_steps"] > 0) == (level == "O1"), (
        "a dynamic scale begins too high, and the history says so"
    )


TAG = """
import ray, sys
ray.init("local", num_cpus=2, resources={"NPU": 2}, log_to_driver=False)
from ray_bilstm.cli import bulk_job
sys.exit(bulk_job(sys.argv[1:], description=""))
"""


def test_files_are_tagged_on_npus(tmp_path, trained, sentences) -> None:
    """By default one worker an NPU."""
    texts = ["".join(sentence.tokens) for sentence in sentences]
    (tmp_path / "some.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    words = ["-c", TAG, trained, tmp_path / "some.txt", "--output-dir", tmp_path / "out", "--no-scores"]
    done = run([*words, "--device", "npu"], 200)
    assert done.returncode == 0, done.stderr[-3000:]
    tagged = (tmp_path / "out" / "0001-some.txt-00001.jsonl").read_text(encoding="utf-8").splitlines()
    found = [[tuple(entity.values()) for entity in json.loads(line)["entities"]] for line in tagged]
    expected = Tagger.load(trained).predict(texts, scores=False)
    assert found == [[entity[:-1] for entity in entities] for entities in expected]


def test_no_npu_is_one_sentence(data_dir, tmp_path) -> None:
    words = ["-m", "ray_bilstm", "train", "--device", "npu", "--data-dir", data_dir, "--output-dir", tmp_path / "run"]
    done = run(words, 120, ASCEND_RT_VISIBLE_DEVICES="", SIMULATED_NPU_COUNT="0")
    assert done.returncode == 1
    assert "error: torch sees no npu device on this machine: check `npu-smi info` and ASCEND_RT_VISI" in done.stderr
