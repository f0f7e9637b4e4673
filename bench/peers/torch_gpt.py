"""The opponent in training: one optimizer step of a GPT in PyTorch, with what makes PyTorch fast on a CPU.

Fused attention, fused AdamW, gradients set to None, denormals flushed, one thread per usable core; `--compile`
adds torch.compile with its warm-up left out of the time, `--dtype bf16` autocast. The model is ours: the same
shape, tied or untied, the same loss over all positions, gradient clipping to 1, AdamW with the same numbers.

Prints one JSON line: tokens_per_s (median step), peak_rss_mb (10^6 bytes), losses, step_s, versions.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--style", choices=["gpt", "llama"], default="gpt")
parser.add_argument("--layers", type=int, default=12)
parser.add_argument("--hidden", type=int, default=768)
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--kv-heads", type=int, help="default: --heads")
parser.add_argument("--ffn", type=int, help="default: 4 x hidden")
parser.add_argument("--vocab", type=int, default=50304)
parser.add_argument("--untied", action="store_true", help="an output layer of its own")
parser.add_argument("--seq", type=int, default=256)
parser.add_argument("--batch", type=int, default=4, help="sequences in one pass")
parser.add_argument("--accumulate", type=int, default=1, help="passes in one optimizer step")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int, default=0, help="0: one per usable core")
options = parser.parse_args()
options.kv_heads = options.kv_heads or options.heads
options.ffn = options.ffn or 4 * options.hidden
options.head_width = options.hidden // options.heads


class Attention(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.widths = [heads * options.head_width for heads in (options.heads, options.kv_heads, options.kv_heads)]
        self.qkv = nn.Linear(options.hidden, sum(self.widths), bias=bias)
        self.out = nn.Linear(options.hidden, options.hidden, bias=bias)

    def forward(self, x, rotary):
        batch, seq, _ = x.shape
        parts = self.qkv(x).split(self.widths, dim=2)
        q, k, v = (part.view(batch, seq, -1, options.head_width).transpose(1, 2) for part in parts)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        grouped = options.kv_heads != options.heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).flatten(2))


def rotate(x, rotary):
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class GptBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(options.hidden), nn.LayerNorm(options.hidden)
        self.attention = Attention(bias=True)
        self.up, self.down = nn.Linear(options.hidden, options.ffn), nn.Linear(options.ffn, options.hidden)

    def forward(self, x, rotary):
        x = x + self.attention(self.norm1(x), rotary)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class LlamaBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(options.hidden, eps=1e-6), nn.RMSNorm(options.hidden, eps=1e-6)
        self.attention = Attention(bias=False)
        self.gate_up = nn.Linear(options.hidden, 2 * options.ffn, bias=False)
        self.down = nn.Linear(options.ffn, options.hidden, bias=False)

    def forward(self, x, rotary):
        x = x + self.attention(self.norm1(x), rotary)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        llama = options.style == "llama"
        self.tokens = nn.Embedding(options.vocab, options.hidden)
        self.positions = None if llama else nn.Embedding(options.seq, options.hidden)
        self.blocks = nn.ModuleList([LlamaBlock() if llama else GptBlock() for _ in range(options.layers)])
        self.norm = nn.RMSNorm(options.hidden, eps=1e-6) if llama else nn.LayerNorm(options.hidden)
        self.output = nn.Linear(options.hidden, options.vocab, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        if not options.untied:
            self.output.weight = self.tokens.weight
        frequencies = 10000.0 ** (-torch.arange(0, options.head_width, 2) / options.head_width)
        angles = torch.arange(options.seq)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, targets):
        x = self.tokens(tokens)
        rotary = (self.cos, self.sin)
        if self.positions is not None:
            x, rotary = x + self.positions.weight, None
        for block in self.blocks:
            x = block(x, rotary)
        logits = self.output(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    network = Network()
    decayed = [p for p in network.parameters() if p.dim() >= 2]
    others = [p for p in network.parameters() if p.dim() < 2]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    forward = torch.compile(network) if options.compile else network
    text = torch.randint(0, options.vocab, (options.accumulate, options.batch, options.seq + 1))
    tokens, targets = text[:, :, :-1].contiguous(), text[:, :, 1:].contiguous()

    losses, seconds = [], []
    for _ in range(options.warmup + options.steps):
        begin = time.perf_counter()
        step_loss = 0.0
        for index in range(options.accumulate):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
                loss = forward(tokens[index], targets[index]) / options.accumulate
            loss.backward()
            step_loss += loss.item()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        losses.append(step_loss)

    measured = seconds[options.warmup :]
    print(
        json.dumps(
            dict(
                peer="PyTorch",
                variant=f"{'compiled' if options.compile else 'eager'} {options.dtype}",
                tokens_per_s=options.accumulate * options.batch * options.seq / statistics.median(measured),
                peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
                loss_first=losses[0],
                loss_last=losses[-1],
                losses=losses,
                step_s=measured,
                parameters=sum(p.numel() for p in network.parameters()),
                threads=torch.get_num_threads(),
                versions=dict(torch=torch.__version__, python=platform.python_version()),
            )
        )
    )


if __name__ == "__main__":
    main()
