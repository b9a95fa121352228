#!/usr/bin/env python3
"""The CRF against pytorch-crf and TorchCRF: forward and backward of the loss, and Viterbi, on one thread or a GPU.

python benchmarks/crf.py
python benchmarks/crf.py --device cuda

28 tags, 64 sentences, of half the length to the whole one. A ratio is a peer's time over ours, CPU time on a cpu and
wall time on a GPU: above 1, ours is faster. Before anything is timed, the results are compared.
"""

import sys

import torch
from measuring import compete, installed, make_parser, median, ratios, report

from ray_bilstm import accelerator
from ray_bilstm.crf import CRF
from ray_bilstm.recursions import length_mask

TAGS, SENTENCES, LENGTHS = 28, 64, (32, 64, 178)
TASKS = ("nll", "viterbi")
REPEATED = 20


def inputs(length, device):
    """Emissions, gold tags, lengths, and the scores that all contestants get."""
    random = torch.Generator().manual_seed(length)
    emissions_BLT = 3 * torch.randn(SENTENCES, length, TAGS, generator=random)
    tags_BL = torch.randint(TAGS, (SENTENCES, length), generator=random)
    lengths_B = torch.randint(length // 2, length + 1, (SENTENCES,), generator=random)
    lengths_B[0] = length
    scores = [torch.randn(*shape, generator=random) for shape in ((TAGS, TAGS), (TAGS,), (TAGS,))]
    return emissions_BLT.to(device), tags_BL.to(device), lengths_B.to(device), [score.to(device) for score in scores]


def take_scores(module, names, scores):
    with torch.no_grad():
        for name, score in zip(names, scores, strict=True):
            getattr(module, name).copy_(score)
    return module


def ours(length, device):
    accelerator.keep_freed_memory()  # as a worker does
    emissions_BLT, tags_BL, lengths_B, scores = inputs(length, device)
    true_T = torch.ones(TAGS, dtype=torch.bool)
    module = CRF(true_T.expand(TAGS, TAGS).clone(), allowed_start_T=true_T, allowed_end_T=true_T).to(device)
    take_scores(module, ("transitions_TT", "start_T", "end_T"), scores)
    return (
        lambda e: module(e, tags_BL, lengths_B).sum(),
        lambda: module.decode(emissions_BLT, lengths_B).tolist(),
        emissions_BLT,
        lengths_B,
    )


def pytorch_crf(length, device):
    import torchcrf

    emissions_BLT, tags_BL, lengths_B, scores = inputs(length, device)
    mask_BL = length_mask(lengths_B, length)
    module = torchcrf.CRF(TAGS, batch_first=True).to(device)
    take_scores(module, ("transitions", "start_transitions", "end_transitions"), scores)
    return (
        lambda e: -module(e, tags_BL, mask=mask_BL),
        lambda: module.decode(emissions_BLT, mask=mask_BL),
        emissions_BLT,
        lengths_B,
    )


def torch_crf(length, device):
    import TorchCRF

    emissions_BLT, tags_BL, lengths_B, scores = inputs(length, device)
    mask_BL = length_mask(lengths_B, length)
    module = TorchCRF.CRF(TAGS, use_gpu=device == "cuda").to(device)
    take_scores(module, ("trans_matrix", "start_trans", "end_trans"), scores)
    return (
        lambda e: -module(e, tags_BL, mask_BL).sum(),
        lambda: module.viterbi_decode(emissions_BLT, mask_BL),
        emissions_BLT,
        lengths_B,
    )


def loss_and_gradient(made):
    loss, _, emissions_BLT, _ = made
    leaf_BLT = emissions_BLT.clone().requires_grad_()
    value = loss(leaf_BLT)
    value.backward()
    return value.detach(), leaf_BLT.grad


def timed(make, length, device, task):
    made = make(length, device)

    def nll():
        for _ in range(REPEATED):
            loss_and_gradient(made)
        accelerator.synchronize(torch.device(device))

    def viterbi():
        for _ in range(REPEATED):
            made[1]()

    return {"nll": nll, "viterbi": viterbi}[task]


def compare(make, length, device):
    """Stop unless a peer gives our losses, gradients and paths."""
    mine, theirs = ours(length, device), make(length, device)
    (loss, gradient), (other, other_gradient) = loss_and_gradient(mine), loss_and_gradient(theirs)
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=0)
    mask_BL1 = length_mask(mine[3], length)[:, :, None]
    torch.testing.assert_close(gradient * mask_BL1, other_gradient * mask_BL1, rtol=0, atol=1e-3)
    paths, other_paths = mine[1](), theirs[1]()
    assert all(a[: len(b)] == list(b) for a, b in zip(paths, other_paths, strict=True))


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    device, kind = options.device, "cpu" if options.device == "cpu" else "wall"
    peers = {"pytorch-crf": pytorch_crf, "TorchCRF": torch_crf}
    peers = {name: make for name, make in peers.items() if installed(name)}
    found, figures = {}, {}
    print(f"{'milliseconds':14}" + "".join(f"{name:>14}" for name in ("ours", *peers)) + f"{'ratio':>9}{'lowest':>9}")
    for task in TASKS:
        for length in LENGTHS:
            for make in peers.values():
                compare(make, length, device)
            contestants = {
                name: (timed, (make, length, device, task)) for name, make in {"ours": ours, **peers}.items()
            }
            costs = compete(contestants, options.rounds)
            milliseconds = {name: 1e3 * getattr(median(cost), kind) / REPEATED for name, cost in costs.items()}
            figures[f"{task}_{length}"] = milliseconds
            line = f"{task + ' ' + str(length):14}" + "".join(f"{value:14.2f}" for value in milliseconds.values())
            if "pytorch-crf" in costs:
                pairs = sorted(ratios(costs["pytorch-crf"], costs["ours"], kind))
                found[f"{task}_{length}"] = pairs[len(pairs) // 2]
                line += f"{found[f'{task}_{length}']:9.1f}{pairs[0]:9.1f}"
            print(line, flush=True)
    report(options.json, ratios=found, figures={"milliseconds": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
