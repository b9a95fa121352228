"""The order of the modules, read from their imports: arrows go down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ray_bilstm

LAYERS = [
    {"sample_words", "words"},
    {"accelerator", "config", "crf_kernels", "lstm_kernels", "embeddings", "report_values", "shared_memory", "tags"},
    {"records", "recursions"},
    {"formats", "vocab", "crf", "metrics", "cluster", "collective"},
    {"check", "batches"},
    {"frozen", "lexicon"},
    {"corpus", "mentions", "model"},
    {"mistakes", "onnx_tagger", "paths", "report_charts", "spelling", "windows"},
    {"evaluation", "highlight", "texts"},
    {"parts", "raw_text", "report_errors", "sample", "precision", "ensemble"},
    {"step"},
    {"loop"},
    {"checkpoint", "language_model", "perf", "watch"},
    {"run_directory", "ensemble_directory", "report", "space", "start", "study"},
    {
        "storage",
        "predict",
        "attend",
        "tracking",
        "bulk_directory",
        "card",
        "ending",
        "dataset",
        "saving",
        "stream",
        "backend",
        "figures",
    },
    {"study_page"},
    {"export", "failures", "teacher", "worker", "launch", "search_directory", "review"},
    {"web"},
    {"bulk", "serve", "train"},
    {"doctor", "pretrain", "trial"},
    {"tune"},
    {"cli_train"},
    {"cli_bulk", "cli_evaluate", "cli_export", "cli_predict", "cli_pretrain", "cli_serve", "cli_tune"},
    {"cli"},
]
WITH_RAY = {
    "backend",
    "bulk",
    "dataset",
    "failures",
    "worker",
    "launch",
    "train",
    "doctor",
    "pretrain",
    "serve",
    "trial",
    "tune",
}
COMMAND_LINE = {
    *("cli", "cli_bulk", "cli_evaluate", "cli_export", "cli_predict", "cli_pretrain", "cli_serve", "cli_train"),
    "cli_tune",
}
WITHOUT_TENSORS = {
    *("tags", "config", "records", "formats", "check", "corpus", "sample", "sample_words", "vocab", "metrics"),
    *("report", "card"),
    *("space", "study", "study_page", "figures", "embeddings", "raw_text", "windows", "texts", "highlight", "mistakes"),
    *("evaluation", "onnx_tagger", "spelling", "report_values", "report_charts", "report_errors", "parts"),
}
FOLDER = Path(ray_bilstm.__file__).parent
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.py"))}
MODULES = sorted(set(TREES) - {"__init__", "__main__"})


def iter_imports(tree):
    """Full names of what a module imports, late imports too; names for type checkers only are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            inner = node.module == "ray_bilstm"
            yield from (f"{node.module}.{name.name}" for name in node.names) if inner else [node.module]
        else:
            yield from iter_imports(node)


def imports_of(module):
    """Modules of the package that `module` imports, and top-level names of other packages."""
    names = [name.split(".") for name in iter_imports(TREES[module])]
    ours = {name[1] for name in names if name[0] == "ray_bilstm" and len(name) > 1} & set(TREES)
    return ours, {name[0] for name in names} - {"ray_bilstm"}


def test_every_module_has_its_layer():
    placed = [module for layer in LAYERS for module in layer]
    assert sorted(placed) == MODULES
    assert set(placed) >= WITH_RAY | WITHOUT_TENSORS


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_down_only(module):
    layer = next(i for i, layer in enumerate(LAYERS) if module in layer)
    below = set().union(*LAYERS[:layer])
    assert imports_of(module)[0] <= below


def test_few_modules_know_ray_torch_npu_and_the_command_line():
    users = {
        name: {module for module in TREES if name in imports_of(module)[1]}
        for name in ("ray", "torch_npu", "argparse", "seqeval", "pickle")
    }
    assert users == {
        "ray": WITH_RAY,
        "torch_npu": {"accelerator"},
        "argparse": COMMAND_LINE,
        "seqeval": set(),
        "pickle": set(),
    }


def test_strings_and_tensors_stay_apart():
    assert {module for module in WITHOUT_TENSORS if "torch" in imports_of(module)[1]} == set()
    assert {module for module in ("crf", "batches", "model") if "corpus" in imports_of(module)[0]} == set()
    assert imports_of("crf")[0] == {"recursions"}
    assert imports_of("recursions")[0] == {"accelerator", "crf_kernels"}


def test_an_exported_tagger_needs_nothing_of_the_project():
    ours, others = imports_of("onnx_tagger")
    assert ours == set()
    assert others <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}


def test_only_the_command_line_prints_and_reads_arguments():
    found = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "input"))
        or (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv")
    }
    assert found <= COMMAND_LINE | {"__main__"}


def run_python(program):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=FOLDER.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_neither_torch_nor_ray():
    run_python("import sys, ray_bilstm; assert not {'torch', 'ray', 'numpy', 'pyarrow'} & set(sys.modules)")


def test_the_command_line_starts_without_torch_and_ray():
    run_python("import sys, ray_bilstm.cli; assert not {'torch', 'ray'} & set(sys.modules)")


def test_plain_modules_need_neither_ray_nor_seqeval():
    plain = [module for module in MODULES if module not in WITH_RAY]
    run_python(
        "import importlib, sys; sys.modules.update(ray=None, seqeval=None, sklearn=None)\n"
        f"for name in {plain}: importlib.import_module('ray_bilstm.' + name)\n"
        "from ray_bilstm import Tagger, Config, read_corpus"
    )


def test_public_names_exist():
    assert all(getattr(ray_bilstm, name) for name in ray_bilstm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Taggr'"):
        ray_bilstm.Taggr  # noqa: B018
