"""The opponent in parallel training: the GPT of torch_gpt.py on two processes of one machine over gloo.

    torch_parallel.py --axis data|tensor|pipeline [--micro-batches M] [flags of torch_gpt.py]

Each axis is PyTorch's own: DistributedDataParallel; `parallelize_module` with column- and row-wise linear layers, a
vocabulary-parallel embedding and loss; `torch.distributed.pipelining` with 1F1B. `--batch` is the global batch, each
process computes on one thread. A pipeline cannot share the embedding between its ends, so its output layer is untied.

Prints one JSON line: tokens_per_s (median step), losses, step_s, versions.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time

WORLD = 2

own = argparse.ArgumentParser(add_help=False)
own.add_argument("--axis", choices=["data", "tensor", "pipeline"], required=True)
own.add_argument("--micro-batches", type=int, default=16)
parallel, rest = own.parse_known_args()
words, sys.argv = sys.argv, [sys.argv[0], *rest]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import torch_gpt as gpt  # noqa: E402

# The processes start with the same words.
sys.argv = words


def optimizer_of(parameters):
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=0.1),
        dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0),
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=gpt.options.dtype == "bf16")


def data_parallel(rank, tokens, targets):
    network = nn.parallel.DistributedDataParallel(gpt.Network(), gradient_as_bucket_view=True)
    forward = torch.compile(network) if gpt.options.compile else network
    optimizer = optimizer_of(network.parameters())
    tokens, targets = tokens.chunk(WORLD)[rank].contiguous(), targets.chunk(WORLD)[rank].contiguous()

    def step():
        with autocast():
            loss = forward(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def tensor_parallel(rank, tokens, targets):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module

    mesh = init_device_mesh("cpu", (WORLD,))
    network = gpt.Network()
    plan = {
        "tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate()),
        "output": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
        "blocks.*.attention.qkv": ColwiseParallel(),
        "blocks.*.attention.out": RowwiseParallel(),
        "blocks.*.up": ColwiseParallel(),
        "blocks.*.down": RowwiseParallel(),
    }
    parallelize_module(network, mesh, plan)
    if not gpt.options.untied:
        network.output.weight = network.tokens.weight
    for block in network.blocks:
        block.attention.widths = [width // WORLD for width in block.attention.widths]
    forward = torch.compile(network) if gpt.options.compile else network
    # Neither the optimizer nor clip_grad_norm_ takes sharded and whole tensors together.
    sharded = [p for p in network.parameters() if isinstance(p, DTensor)]
    whole = [p for p in network.parameters() if not isinstance(p, DTensor)]
    optimizers = [optimizer_of(sharded), optimizer_of(whole)]

    def clip():
        split, same = [p.grad.to_local() for p in sharded], [p.grad for p in whole]
        squares = torch.stack(torch._foreach_norm(split)).square().sum()
        dist.all_reduce(squares)
        norm = (squares + torch.stack(torch._foreach_norm(same)).square().sum()).sqrt()
        torch._foreach_mul_(split + same, torch.clamp(1.0 / (norm + 1e-6), max=1.0))

    def step():
        with loss_parallel():
            with autocast():
                loss = forward(tokens, targets)
            loss.backward()
        clip()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.full_tensor().item() if hasattr(loss, "full_tensor") else loss.item()

    return step


class Stage(nn.Module):
    """Half of the blocks, with the embedding in front or the output layer behind."""

    def __init__(self, network, rank):
        super().__init__()
        half = len(network.blocks) // WORLD
        self.blocks = nn.ModuleList(list(network.blocks)[rank * half : (rank + 1) * half])
        self.tokens, self.positions = (network.tokens, network.positions) if rank == 0 else (None, None)
        self.norm, self.output = (network.norm, network.output) if rank == WORLD - 1 else (None, None)

    def forward(self, x):
        with autocast():
            if self.tokens is not None:
                x = self.tokens(x) + self.positions.weight
            for block in self.blocks:
                x = block(x, None)
            return x if self.output is None else self.output(self.norm(x))


def pipeline_parallel(rank, tokens, targets):
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    gpt.options.untied = True
    stage = Stage(gpt.Network(), rank)
    optimizer = optimizer_of(stage.parameters())
    cut = lambda logits, wanted: F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())
    schedule = Schedule1F1B(
        PipelineStage(torch.compile(stage) if gpt.options.compile else stage, rank, WORLD, torch.device("cpu")),
        n_microbatches=parallel.micro_batches,
        loss_fn=cut,
    )

    def step():
        losses = []
        if rank == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=targets, losses=losses)
        nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return sum(loss.item() for loss in losses) / max(len(losses), 1)

    return step


def run(rank, meeting, result):
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    options = gpt.options
    text = torch.randint(0, options.vocab, (options.batch, options.seq + 1))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    make = dict(data=data_parallel, tensor=tensor_parallel, pipeline=pipeline_parallel)[parallel.axis]
    step = make(rank, tokens, targets)
    losses, seconds = [], []
    for _ in range(options.warmup + options.steps):
        dist.barrier()
        begin = time.perf_counter()
        losses.append(step())
        dist.barrier()
        seconds.append(time.perf_counter() - begin)
    if rank == WORLD - 1:
        measured = seconds[options.warmup :]
        with open(result, "w") as file:
            json.dump(
                dict(
                    peer="PyTorch over gloo",
                    variant=f"{parallel.axis} 2, {'compiled' if options.compile else 'eager'} {options.dtype}",
                    tokens_per_s=options.batch * options.seq / statistics.median(measured),
                    loss_first=losses[0],
                    loss_last=losses[-1],
                    step_s=measured,
                    versions=dict(torch=torch.__version__, python=platform.python_version()),
                ),
                file,
            )
    dist.destroy_process_group()


def main():
    with tempfile.TemporaryDirectory() as folder:
        meeting, result = os.path.join(folder, "meeting"), os.path.join(folder, "result.json")
        mp.spawn(run, args=(meeting, result), nprocs=WORLD)
        print(open(result).read())


if __name__ == "__main__":
    main()
