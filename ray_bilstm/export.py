"""A model as an ONNX graph of its emissions, for machines without torch.

model.onnx        emissions of any number of texts of any length
model-8x128.onnx  the same graph for 8 texts of 128 characters, as Ascend's ATC wants it
tagger.json       characters, bigrams and tags by id, transition scores, which tags make an entity
tagger.py         `onnx_tagger.py`: Viterbi and entities in NumPy
README.md         how to use it

The graph is built node by node, as `model.py` computes: Gather, LSTM, ReverseSequence, MatMul, nothing of any one
runtime. Both LSTMs of a layer run forwards, one on sentences turned around within their length, so that padding comes
last for both. A directory appears whole, by renaming a finished temporary one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ray_bilstm.batches import Shard, iter_eval_batches
from ray_bilstm.checkpoint import write_file
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.ensemble_directory import read_tagger
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf, OpenEmbedding
from ray_bilstm.onnx_tagger import OnnxTagger
from ray_bilstm.predict import Tagger
from ray_bilstm.vocab import Vocab

if TYPE_CHECKING:
    import onnx

GRAPH, NAMES, MODULE, CARD = "model.onnx", "tagger.json", "tagger.py", "README.md"
FORMAT = 1
OPSET, IR_VERSION = 13, 8
GATES = (0, 3, 1, 2)
"""Where ONNX's gates (input, output, forget, cell) stand among torch's (input, forget, cell, output)."""

Shape = tuple[int, int]
"""Texts and characters of a graph of fixed shape."""


class ExportError(RuntimeError):
    """A model that cannot be exported."""


class Check(NamedTuple):
    """How far an exported model is from the one it was made of."""

    texts: int
    difference: float
    """largest of any emission"""
    equal: bool
    """whether all tags are equal"""


def export(model: str | Path, directory: Path, *, shapes: Sequence[Shape] = ()) -> dict[Shape, str]:
    """Write the model of a directory to a new one as ONNX; of fixed `shapes`, a graph each. Returns the `atc` arguments
    for those.

    Raises ExportError for an ensemble, without onnx, or where `directory` holds something.
    """
    try:
        import onnx
    except ImportError as error:
        raise ExportError("export needs onnx: pip install 'ray_bilstm[export]'") from error
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExportError(f"{directory}: exists, expected a new or empty directory for an export")
    network, vocab = read_tagger(model)
    if isinstance(network, Ensemble):
        raise ExportError(f"{model}: got an ensemble, expected one model: train a student of it with train --teacher")
    if network.lexicon is not None:
        raise ExportError(f"{model}: got a model with a lexicon, expected one without: it cannot be exported yet")
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    commands = {shape: atc_arguments(shape, bigrams=network.bigram_embedding is not None) for shape in shapes}
    try:
        for shape in (None, *shapes):
            graph = build_graph(network, shape)
            onnx.checker.check_model(graph, full_check=True)
            write_file(fresh / graph_name(shape), graph.SerializeToString())
        write_file(fresh / NAMES, json.dumps(_names(network, vocab), ensure_ascii=False) + "\n")
        write_file(fresh / MODULE, resources.files("ray_bilstm").joinpath("onnx_tagger.py").read_bytes())
        write_file(fresh / CARD, _card(commands))
        fresh.chmod(0o755)
        fresh.replace(directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return commands


def graph_name(shape: Shape | None) -> str:
    """File of the graph of a fixed shape, or of any."""
    return GRAPH if shape is None else f"model-{shape[0]}x{shape[1]}.onnx"


def atc_arguments(shape: Shape, *, bigrams: bool) -> str:
    """What Ascend's ATC needs to know, but for the chip."""
    texts, length = shape
    name = graph_name(shape)
    inputs = [f"{ids}:{texts},{length}" for ids in ("chars", *(["bigrams"] if bigrams else []))] + [f"lengths:{texts}"]
    return (
        f"--framework=5 --model={name} --output={name.removesuffix('.onnx')} --input_format=ND"
        f' --input_shape="{";".join(inputs)}"'
    )


# The graph ------------------------------------------------------------------------------------------------------------


class _Graph:
    """Nodes and weights so far."""

    def __init__(self) -> None:
        import onnx

        self.onnx = onnx
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node, by the name of what it gives."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def weight(self, name: str, values: torch.Tensor | np.ndarray) -> str:
        array = values.detach().float().numpy() if isinstance(values, torch.Tensor) else values
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def build_graph(model: BiLstmCrf, shape: Shape | None) -> onnx.ModelProto:
    """`model.emissions` as an ONNX model, of any shape or a fixed one."""
    rows, length = shape or ("texts", "characters")
    graph = _Graph()
    helper, types = graph.onnx.helper, graph.onnx.TensorProto
    inputs: dict[str, tuple[int | str, ...]] = {"chars": (rows, length), "lengths": (rows,)}
    states = _embed(graph, "chars", model.char_embedding)
    if model.bigram_embedding is not None:
        inputs["bigrams"] = (rows, length)
        states = graph.add("Concat", states, _embed(graph, "bigrams", model.bigram_embedding), axis=2)
    direction_axis = graph.weight("direction_axis", np.array([1]))
    for layer, (ahead, back) in enumerate(zip(model.bilstm.forwards, model.bilstm.backwards, strict=True)):
        forwards = _lstm(graph, f"forwards_{layer}", states, ahead, direction_axis)
        turned = _lstm(graph, f"backwards_{layer}", _turn(graph, states), back, direction_axis)
        states = graph.add("Concat", forwards, _turn(graph, turned), axis=2)
    product = graph.add("MatMul", states, graph.weight("emission_weight", model.emission.weight.T))
    scores = graph.add("Add", product, graph.weight("emission_bias", model.emission.bias))
    graph.add("Transpose", scores, output="emissions", perm=[1, 0, 2])
    size = (rows, length, model.emission.out_features)
    made = helper.make_graph(
        graph.nodes,
        "emissions",
        [helper.make_tensor_value_info(name, types.INT64, size) for name, size in inputs.items()],
        [helper.make_tensor_value_info("emissions", types.FLOAT, size)],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ray_bilstm")


def _embed(graph: _Graph, ids: str, embedding: OpenEmbedding) -> str:
    """Vectors of (texts, characters) ids: (characters, texts, E)."""
    rows = [embedding.weight] if embedding.outside is None else [embedding.weight, embedding.outside]
    turned = graph.add("Transpose", ids, perm=[1, 0])
    return graph.add("Gather", graph.weight(f"{ids}_embedding", torch.cat(rows)), turned, axis=0)


def _turn(graph: _Graph, states: str) -> str:
    return graph.add("ReverseSequence", states, "lengths", time_axis=0, batch_axis=1)


def _lstm(graph: _Graph, name: str, states: str, lstm: nn.Module, direction_axis: str) -> str:
    """(characters, texts, H), read forwards."""
    gates = {}
    for part, weight in lstm.named_parameters():
        parts = weight.chunk(4)
        gates[part] = torch.cat([parts[i] for i in GATES])
    biases = torch.cat((gates["bias_ih_l0"], gates["bias_hh_l0"]))
    weights = {"W": gates["weight_ih_l0"], "R": gates["weight_hh_l0"], "B": biases}
    named = [graph.weight(f"{name}_{part}", weight[None]) for part, weight in weights.items()]
    hidden_size = gates["weight_hh_l0"].shape[1]
    return graph.add("Squeeze", graph.add("LSTM", states, *named, hidden_size=hidden_size), direction_axis)


# What stands beside it ------------------------------------------------------------------------------------------------


def _names(model: BiLstmCrf, vocab: Vocab) -> dict[str, Any]:
    scorer = Scorer(vocab.tags, vocab.scheme)
    transitions_TT, start_T, end_T = (score.tolist() for score in model.crf.legal_scores())
    return {
        "format": FORMAT,
        "chars": vocab.all_chars,
        "bigrams": vocab.all_bigrams,
        "tags": vocab.tags,
        "scheme": vocab.scheme,
        "transitions": transitions_TT,
        "start": start_T,
        "end": end_T,
        "continues": scorer.continues_TT.tolist(),
        "begins": scorer.begins_T.tolist(),
        "ends": scorer.ends_T.tolist(),
    }


def _card(commands: dict[Shape, str]) -> str:
    fixed = "\n".join(f"    atc {arguments} --soc_version=CHIP" for arguments in commands.values())
    about = "For an Ascend NPU, with CHIP as `npu-smi info` has it, Ascend310P3 say (not tried on one)"
    ascend = f"\n{about}:\n\n{fixed}\n" if fixed else ""
    return f"""# An exported tagger

    pip install numpy onnxruntime

    from tagger import OnnxTagger
    OnnxTagger(".").predict("王芳：女，汉族，硕士。")

{GRAPH} gives the emissions, float32 (texts, characters, tags), of `chars` and `bigrams`, int64 (texts, characters),
and `lengths`, int64 (texts); {NAMES} has the ids and the transition scores (from row to column; about -1e9: not
allowed); {MODULE} does the rest in NumPy.
{ascend}"""


def check_export(model: str | Path, directory: Path, *, texts: int = 64, longest: int = 200) -> Check:
    """Compare on texts of random lengths and characters, known and unknown, in ONNX Runtime. Raises ExportError
    without it."""
    try:
        exported = OnnxTagger(directory)
    except ImportError as error:
        raise ExportError("checking an export needs onnxruntime: pip install 'ray_bilstm[export]'") from error
    network, vocab = read_tagger(model)
    if isinstance(network, Ensemble):
        raise ExportError(f"{model}: got an ensemble, expected the model that was exported")
    random = np.random.default_rng(0)
    characters = np.array([*vocab.all_chars, *"\n😀 "], object)
    made = ["".join(random.choice(characters, random.integers(longest + 1))) for _ in range(texts)]
    (batch,) = iter_eval_batches(Shard(vocab.encode(made), np.arange(texts)), batch_size=texts)
    with torch.no_grad():
        expected = network.emissions(batch).numpy()
    got = exported.emissions(exported.encode([made[i] for i in batch.rows]))
    inside = np.arange(expected.shape[1]) < batch.lengths_B.numpy()[:, None]
    difference = float(np.abs(got - expected)[inside].max(initial=0.0))
    return Check(texts, difference, exported.tag(made) == Tagger(network, vocab).tag(made))
