"""Golden files: what `transformers` computes for two tiny random models, kept for our tests to meet.

    cargo xtask golden        # creates the Python environment, runs this, says what changed

For each of gpt2/ (tied embeddings, learned positions, biases) and llama/ (untied, rotary, grouped-query
attention, RMSNorm) under crates/model/tests/golden/ it writes

    config.json, model.safetensors   a Hugging Face folder as `save_pretrained` makes it
    golden.safetensors               what PyTorch makes of it, all on CPU in f32:
        tokens, targets   i32 [batch, sequence]      targets are the tokens one place to the left
        logits            f32 [batch, sequence, vocab]
        loss              f32 [1]                     mean cross-entropy over all positions
        grad.<name>       f32, the shape of <name>    one per tensor of model.safetensors
        curve.tokens, curve.targets   i32 [50, batch, sequence]
        curve.losses      f32 [50]                    loss of each AdamW step, before its update

The metadata of golden.safetensors holds the optimizer's numbers (`lr`, `beta1`, `beta2`, `eps`,
`weight_decay`; decay touches tensors of two or more dimensions only; no clipping) and, so that tolerances
are derived and not guessed, how far PyTorch's own f32 lies from the same computation in f64:
`deviation.logits`, `deviation.loss`, `deviation.grad` (each the largest |f32 - f64| over the largest |f64|
of the tensor), `deviation.curve` (largest |f32 - f64| of a loss).
"""

import copy
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates/model/tests/golden"
VOCAB, SEQUENCE, BATCH = 97, 32, 2
STEPS, DISTINCT_BATCHES = 50, 5
ADAMW = dict(lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)

# Widths that are no multiples of the vector length, so that remainders of every kernel are met.
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_layer=3, n_embd=32, n_head=4, n_inner=104, vocab_size=VOCAB, n_positions=SEQUENCE,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=2, hidden_size=48, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=104, vocab_size=VOCAB, max_position_embeddings=SEQUENCE,
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )
    ),
}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, build in MODELS.items():
        torch.manual_seed(1234)
        model = build().eval()
        model.config._attn_implementation = "eager"
        randomise(model)
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tensors, metadata = golden(model)
        save_file(tensors, folder / "golden.safetensors", metadata)
        sort_metadata(folder / "golden.safetensors")
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)
        print(name, {key: value for key, value in metadata.items() if "deviation" in key})
        print("  loss", tensors["loss"].item(), "curve", tensors["curve.losses"][[0, 9, 24, 49]].tolist())


def randomise(model):
    """Weights far larger than an initialisation, norms and biases away from 1 and 0: gradients that mean something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() >= 2:
                parameter.copy_(0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1.0 + 0.1 * noise)


def golden(model):
    text = torch.randint(0, VOCAB, (BATCH, SEQUENCE + 1))
    tokens, targets = text[:, :-1], text[:, 1:]
    # A few batches met again and again, so that the curve falls instead of staying at ln(vocab).
    texts = torch.randint(0, VOCAB, (DISTINCT_BATCHES, BATCH, SEQUENCE + 1))
    texts = texts.repeat(STEPS // DISTINCT_BATCHES, 1, 1)
    curve_tokens, curve_targets = texts[:, :, :-1], texts[:, :, 1:]

    exact = in_f64(model)
    logits, loss, gradients = once(model, tokens, targets)
    exact_logits, exact_loss, exact_gradients = once(exact, tokens, targets)
    losses = curve(model, curve_tokens, curve_targets)
    exact_losses = curve(exact, curve_tokens, curve_targets)

    tensors = {
        "tokens": tokens.to(torch.int32), "targets": targets.to(torch.int32),
        "logits": logits, "loss": loss.reshape(1),
        "curve.tokens": curve_tokens.to(torch.int32), "curve.targets": curve_targets.to(torch.int32),
        "curve.losses": losses,
    }
    tensors |= {f"grad.{name}": gradient for name, gradient in gradients.items()}
    deviation = {
        "logits": relative(logits, exact_logits),
        "loss": relative(loss, exact_loss),
        "grad": max(relative(gradients[name], exact_gradients[name]) for name in gradients),
        "curve": (losses - exact_losses).abs().max().item(),
    }
    metadata = {key: repr(value) for key, value in ADAMW.items()}
    metadata |= {f"deviation.{key}": f"{value:.3e}" for key, value in deviation.items()}
    metadata["made_with"] = f"torch {torch.__version__.split('+')[0]}, f32, one thread"
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata


def relative(value, exact):
    return ((value - exact).abs().max() / exact.abs().max()).item()


def mean_loss(model, tokens, targets):
    logits = model(input_ids=tokens, use_cache=False).logits
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def once(model, tokens, targets):
    model.zero_grad()
    logits, loss = mean_loss(model, tokens, targets)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return logits.detach(), loss.detach(), gradients


def curve(model, tokens, targets):
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    groups = [
        dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=ADAMW["weight_decay"]),
        dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"], foreach=False
    )
    losses = []
    for step_tokens, step_targets in zip(tokens, targets):
        optimizer.zero_grad()
        _, loss = mean_loss(model, step_tokens, step_targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sort_metadata(path):
    """safetensors writes metadata in random order; the same numbers must be the same bytes."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def in_f64(model):
    """The same model in f64 throughout: transformers' Llama computes norms, angles and softmax in f32 whatever it is given."""
    exact = copy.deepcopy(model).double()
    exact.config._attn_implementation = "sdpa"
    for module in exact.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            module.forward = rms_norm_f64.__get__(module)
        if isinstance(module, modeling_llama.LlamaRotaryEmbedding):
            module.forward = rotary_f64.__get__(module)
    return exact


def rms_norm_f64(norm, x):
    return norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)


def rotary_f64(rotary, x, position_ids, **_):
    width = rotary.inv_freq.shape[0] * 2
    base = rotary.config.rope_parameters["rope_theta"]
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


if __name__ == "__main__":
    main()
