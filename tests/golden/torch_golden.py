#!/usr/bin/env python3
"""Makes tests/golden/torch-golden.json: what PyTorch, transformers and PEFT compute while they train tiny models, for
tests/tune/test_golden_train.c (needs torch, transformers, peft, numpy; a CPU, some minutes).

    torch_golden.py tests/golden/torch-golden.json [ARCH [WAY]]      with ARCH: prints only

Nobody commits weights: both sides fill every tensor from a hash of its name and of the place of each value, in GGUF's names and
order. Everything runs in double precision: where transformers goes down to float32 (norms, softmax, rotation), it is made to stay.
For each architecture and way of training: losses at first and after 1, 10 and 100 steps of AdamW (lr 1e-3, decay 0.01 on matrices),
the last row of logits of each sequence, and of all logits, of every gradient, of every parameter after 100 steps the norm and
four projections on vectors of signs: the differences of such projections estimate the norm of the difference over all values.

"loose": values whose first gradient is below a hundred thousandth of the tensor's (root mean square), by chance: AdamW's first step is
the gradient's sign, here the sign of rounding, so that PyTorch in float32 does not find its own double precision again (one value of
gemma3's blk.1.attn_q.weight put its tensor 7e-5 off). After 100 steps they are left out.
"""
import json
import sys

import numpy as np
import torch
import transformers
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.overrides import TorchFunctionMode

VOCAB, RANK, ALPHA, PROMPT, PREFIX, CLASSES = 61, 4, 6, 5, 3, 3
SEQUENCES = [13, 8, 8]
STEPS = [1, 10, 100]
NOTHING = 1e-12  # gradients that are zero but for rounding: a bias of keys that nothing rotates
# qwen2's base is small here: with its own 1e6 the slowest pairs hardly turn, so that their key bias has a gradient of nothing but
# rounding, and Adam makes whole steps of it
MODELS = {
    "llama": {"layers": 2, "width": 64, "heads": 4, "kv": 2, "hd": 16, "ff": 96, "theta": 500000.0},
    "qwen2": {"layers": 2, "width": 64, "heads": 4, "kv": 1, "hd": 16, "ff": 96, "theta": 1000.0},
    "gemma3": {"layers": 6, "width": 48, "heads": 4, "kv": 2, "hd": 16, "ff": 80, "theta": 1000000.0},
    "gpt2": {"layers": 2, "width": 64, "heads": 4, "kv": 4, "hd": 16, "ff": 160},
    "bert": {"layers": 2, "width": 64, "heads": 4, "kv": 4, "hd": 16, "ff": 96},
}
EPS, CONTEXT, WINDOW, LOCAL_THETA, ROPE_FACTOR = 1e-5, 32, 6, 10000.0, 8.0


class Double(TorchFunctionMode):
    """every mention of float32 means float64"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        up = lambda x: torch.float64 if x is torch.float32 else x
        return func(*[up(a) for a in args], **{k: up(v) for k, v in (kwargs or {}).items()})


# ---- values from names ----------------------------------------------------------------------------------------------------------
def hashes(text, n):
    h = 0xCBF29CE484222325
    for c in text.encode():
        h = (h ^ c) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def values(name, n):
    """16 bits each, so that every value is a float: name is "w:token_embd.weight", "a:blk.0.attn_q.weight", "p:" ..."""
    u = ((hashes(name, n) >> np.uint64(48)).astype(np.float64) - 32768) / 32768
    if name.startswith("w:") and name.endswith("norm.weight"):
        return 1 + u / 4
    size = {"k": 1, "b": 0.125, "p": 0.5, "v": 0.5}.get(name[0], 0.25)
    return u * (0.5 if name in ("w:token_embd.weight", "w:position_embd.weight") else size)


def signs(name, n):
    h = hashes("sign " + name, n)
    return [1 - 2 * (h >> np.uint64(63 - j) & np.uint64(1)).astype(np.float64) for j in range(4)]


def short(x, digits=7):
    return float("%.*g" % (digits, x))


def sketch(name, x):
    return [short(np.sqrt((x * x).sum()))] + [short((s * x).sum()) for s in signs(name, x.size)]


# ---- models: GGUF's name -> parameter, index of each of GGUF's values in it, what GGUF adds ---------------------------------------
class Entry:
    def __init__(self, param, index=None, plus=0.0):
        self.param, self.plus = param, plus
        self.index = torch.as_tensor(np.ascontiguousarray(index).reshape(-1) if index is not None else np.arange(param.numel()))

    def fill(self, name):
        with torch.no_grad():
            flat = self.param.data.reshape(-1).clone()
            flat[self.index] = torch.from_numpy(values(name, self.index.numel())) - self.plus
            self.param.data.copy_(flat.reshape(self.param.shape))

    def value(self):
        return (self.param.detach().reshape(-1)[self.index] + self.plus).numpy()

    def grad(self):
        return self.param.grad.reshape(-1)[self.index].numpy()


def places(*shape):
    return np.arange(int(np.prod(shape))).reshape(shape)


def turned_heads(x, hd):
    """rows of llama's q and k: Hugging Face rotates (i, i + hd/2), GGUF (2i, 2i + 1)"""
    return x.reshape(-1, 2, hd // 2, x.shape[-1]).swapaxes(1, 2).reshape(x.shape)


def make_model(arch):
    c = MODELS[arch]
    common = dict(vocab_size=VOCAB, hidden_size=c["width"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
                  intermediate_size=c["ff"], max_position_embeddings=CONTEXT, pad_token_id=None, attn_implementation="eager")
    decoder = dict(common, num_key_value_heads=c["kv"], rms_norm_eps=EPS)
    if arch == "llama":
        config = transformers.LlamaConfig(**decoder, rope_theta=c["theta"], tie_word_embeddings=False)
        model = transformers.LlamaForCausalLM(config)
    elif arch == "qwen2":
        config = transformers.Qwen2Config(**decoder, rope_theta=c["theta"], tie_word_embeddings=True)
        model = transformers.Qwen2ForCausalLM(config)
    elif arch == "gemma3":
        rope = {"sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_THETA},
                "full_attention": {"rope_type": "linear", "factor": ROPE_FACTOR, "rope_theta": c["theta"]}}
        config = transformers.Gemma3TextConfig(**decoder, head_dim=c["hd"], query_pre_attn_scalar=c["hd"], sliding_window=WINDOW,
                                               rope_parameters=rope, tie_word_embeddings=True)
        model = transformers.Gemma3ForCausalLM(config)
    elif arch == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=c["width"], n_layer=c["layers"], n_head=c["heads"],
                                         n_inner=c["ff"], bos_token_id=None, eos_token_id=None, layer_norm_epsilon=EPS, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
                                         attn_implementation="eager")
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.BertConfig(**common, layer_norm_eps=EPS, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        model = transformers.BertModel(config, add_pooling_layer=False)
    return model.double().train()


def family(arch, model, out):
    """llama, qwen2, gemma3"""
    c, gemma = MODELS[arch], arch == "gemma3"
    plus = 1.0 if gemma else 0.0
    out["output_norm.weight"] = Entry(model.model.norm.weight, plus=plus)
    if arch == "llama":
        out["output.weight"] = Entry(model.lm_head.weight)
    out["token_embd.weight"] = Entry(model.model.embed_tokens.weight)
    for i, l in enumerate(model.model.layers):
        b, a = "blk.%d." % i, l.self_attn
        for name, m in (("attn_q", a.q_proj), ("attn_k", a.k_proj), ("attn_v", a.v_proj), ("attn_output", a.o_proj),
                        ("ffn_gate", l.mlp.gate_proj), ("ffn_up", l.mlp.up_proj), ("ffn_down", l.mlp.down_proj)):
            turned = arch == "llama" and name in ("attn_q", "attn_k")
            out[b + name + ".weight"] = Entry(m.weight, turned_heads(places(*m.weight.shape), c["hd"]) if turned else None)
            if m.bias is not None:
                out[b + name + ".bias"] = Entry(m.bias)
        norms = [("attn_norm", l.input_layernorm), ("ffn_norm", l.post_attention_layernorm)]
        if gemma:
            norms = [("attn_norm", l.input_layernorm), ("post_attention_norm", l.post_attention_layernorm),
                     ("ffn_norm", l.pre_feedforward_layernorm), ("post_ffw_norm", l.post_feedforward_layernorm),
                     ("attn_q_norm", a.q_norm), ("attn_k_norm", a.k_norm)]
        for name, m in norms:
            out[b + name + ".weight"] = Entry(m.weight, plus=plus)


def both(out, name, m, turned=False):
    out[name + ".weight"] = Entry(m.weight, places(*m.weight.shape).T if turned else None)
    out[name + ".bias"] = Entry(m.bias)


def gpt2(model, out):
    t, d = model.transformer, MODELS["gpt2"]["width"]
    out["token_embd.weight"], out["position_embd.weight"] = Entry(t.wte.weight), Entry(t.wpe.weight)
    both(out, "output_norm", t.ln_f)
    for i, l in enumerate(t.h):
        b = "blk.%d." % i
        for p, name in enumerate("qkv"):
            out[b + "attn_%s.weight" % name] = Entry(l.attn.c_attn.weight, places(d, 3 * d)[:, p * d:(p + 1) * d].T)
            out[b + "attn_%s.bias" % name] = Entry(l.attn.c_attn.bias, np.arange(p * d, (p + 1) * d))
        for name, m, turned in (("attn_output", l.attn.c_proj, 1), ("ffn_up", l.mlp.c_fc, 1), ("ffn_down", l.mlp.c_proj, 1),
                                ("attn_norm", l.ln_1, 0), ("ffn_norm", l.ln_2, 0)):
            both(out, b + name, m, turned)


def bert(model, out):
    e = model.embeddings
    out["token_embd.weight"], out["position_embd.weight"] = Entry(e.word_embeddings.weight), Entry(e.position_embeddings.weight)
    out["token_types.weight"] = Entry(e.token_type_embeddings.weight)
    both(out, "token_embd_norm", e.LayerNorm)
    for i, l in enumerate(model.encoder.layer):
        for name, m in (("attn_q", l.attention.self.query), ("attn_k", l.attention.self.key), ("attn_v", l.attention.self.value),
                        ("attn_output", l.attention.output.dense), ("attn_output_norm", l.attention.output.LayerNorm),
                        ("ffn_up", l.intermediate.dense), ("ffn_down", l.output.dense), ("layer_output_norm", l.output.LayerNorm)):
            both(out, "blk.%d.%s" % (i, name), m)


def base_entries(arch, model):
    out = {}
    if arch == "gpt2":
        gpt2(model, out)
    elif arch == "bert":
        bert(model, out)
    else:
        family(arch, model, out)
    return {"w:" + k: v for k, v in out.items()}


# ---- ways -------------------------------------------------------------------------------------------------------------------------
def lora_entries(arch, model):
    c, out = MODELS[arch], {}

    def pair(name, m, index_b=None):
        a, b = m.lora_A["default"].weight, m.lora_B["default"].weight
        out["a:" + name], out["b:" + name] = Entry(a), Entry(b, index_b)

    def fused(layer, m):
        """one pair for q, k and v there; three here, so that of B only the blocks on the diagonal exist"""
        a, b, d = m.lora_A["default"].weight, m.lora_B["default"].weight, c["width"]
        mask = torch.zeros_like(b)
        for p, name in enumerate("qkv"):
            rows, ranks = slice(p * d, (p + 1) * d), slice(p * RANK, (p + 1) * RANK)
            mask[rows, ranks] = 1
            out["a:blk.%d.attn_%s.weight" % (layer, name)] = Entry(a, places(*a.shape)[ranks])
            out["b:blk.%d.attn_%s.weight" % (layer, name)] = Entry(b, places(*b.shape)[rows, ranks])
        b.register_hook(lambda g: g * mask)

    if arch == "gpt2":
        for i, l in enumerate(model.transformer.h):
            fused(i, l.attn.c_attn)
            for name, m in (("attn_output", l.attn.c_proj), ("ffn_up", l.mlp.c_fc), ("ffn_down", l.mlp.c_proj)):
                pair("blk.%d.%s.weight" % (i, name), m)
    elif arch == "bert":
        for i, l in enumerate(model.encoder.layer):
            s = l.attention.self
            for name, m in (("attn_q", s.query), ("attn_k", s.key), ("attn_v", s.value), ("attn_output", l.attention.output.dense),
                            ("ffn_up", l.intermediate.dense), ("ffn_down", l.output.dense)):
                pair("blk.%d.%s.weight" % (i, name), m)
    else:
        for i, l in enumerate(model.model.layers):
            a = l.self_attn
            for name, m in (("attn_q", a.q_proj), ("attn_k", a.k_proj), ("attn_v", a.v_proj), ("attn_output", a.o_proj),
                            ("ffn_gate", l.mlp.gate_proj), ("ffn_up", l.mlp.up_proj), ("ffn_down", l.mlp.down_proj)):
                turned = arch == "llama" and name in ("attn_q", "attn_k")
                b = m.lora_B["default"].weight
                pair("blk.%d.%s.weight" % (i, name), m, turned_heads(places(*b.shape), c["hd"]) if turned else None)
    return out


def lora_config(arch, rs):
    targets = {"gpt2": ["c_attn", "c_proj", "c_fc"], "bert": ["query", "key", "value", "dense"]}.get(
        arch, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    more = {}
    if arch == "gpt2":
        more = dict(fan_in_fan_out=True, rank_pattern={"c_attn": 3 * RANK}, alpha_pattern={"c_attn": ALPHA * (3 ** 0.5 if rs else 3)})
    return LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=rs, target_modules=targets, **more,
                      task_type="FEATURE_EXTRACTION" if arch == "bert" else "CAUSAL_LM")


def prefix_entries(arch, peft):
    c, out = MODELS[arch], {}
    w = peft.prompt_encoder["default"].embedding.weight
    at = places(PREFIX, c["layers"], 2, c["kv"] * c["hd"])
    for i in range(c["layers"]):
        keys = at[:, i, 0]
        if arch == "llama":
            keys = turned_heads(keys.reshape(PREFIX, -1, 1).reshape(-1, 1), c["hd"]).reshape(PREFIX, -1)
        out["k:blk.%d" % i], out["v:blk.%d" % i] = Entry(w, keys), Entry(w, at[:, i, 1])
    return out


def trained(arch, model, way):
    """-> model to call, entries that learn"""
    base = base_entries(arch, model)
    for name, e in base.items():
        e.fill(name)
    if way == "all":
        return model, base
    if way in ("lora", "rslora"):
        peft = get_peft_model(model, lora_config(arch, way == "rslora"))
        out = lora_entries(arch, model)
    elif way == "prompt":
        peft = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPT))
        out = {"p:": Entry(peft.prompt_encoder["default"].embedding.weight)}
    else:
        c = MODELS[arch]
        peft = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PREFIX, token_dim=c["kv"] * c["hd"],
                                                       num_attention_heads=c["kv"], num_layers=c["layers"]))
        out = prefix_entries(arch, peft)
    peft = peft.double().train()
    asked = peft.get_nb_trainable_parameters()[0]
    if arch == "gpt2" and "lora" in way:
        asked -= MODELS[arch]["layers"] * 6 * MODELS[arch]["width"] * RANK  # blocks of B off the diagonal
    assert asked == sum(e.index.numel() for e in out.values()), (asked, arch, way)
    return peft, out


# ---- runs -------------------------------------------------------------------------------------------------------------------------
def token(s, i):
    s = min(s, 1)
    return (s * 37 + i * 11 + i * i * 5) % VOCAB


def target(s, n, i):
    """the third sequence is the second with other targets: what cannot be learned keeps losses and gradients away from rounding"""
    return (token(s, i + 1) + 7 * (s == 2)) % VOCAB if i + 1 < n and i >= 3 * s else -100


def run(arch, way):
    torch.set_default_dtype(torch.float64)
    call, entries = trained(arch, make_model(arch), way)
    if arch == "bert":
        entries["c:"] = Entry(torch.nn.Parameter(torch.zeros(CLASSES, MODELS[arch]["width"])))
        entries["d:"] = Entry(torch.nn.Parameter(torch.zeros(CLASSES)))
    for name, e in entries.items():
        e.fill(name)
    params = list({id(e.param): e.param for e in entries.values()}.values())
    assert all(p.dtype == torch.float64 and p.requires_grad for p in params)

    def forward():
        loss, rows = 0, []
        for s, n in enumerate(SEQUENCES):
            ids = torch.tensor([[token(s, i) for i in range(n)]])
            if arch == "bert":
                x = call(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0, keepdim=True)
                y = x @ entries["c:"].param.T + entries["d:"].param
                loss = loss + torch.nn.functional.cross_entropy(y, torch.tensor([(s + 1) % 3])) * (s + 1) / 4
            else:
                y = call(input_ids=ids).logits[0][-n:]
                want = torch.tensor([target(s, n, i) for i in range(n)])
                nll = torch.nn.functional.cross_entropy(y, want, ignore_index=-100, reduction="none")
                loss = loss + (nll * torch.tensor([(1 + i % 3) / 64 for i in range(n)])).sum()
            rows.append(y)
        return loss, rows

    optimizer = torch.optim.AdamW([{"params": [p for p in params if p.dim() > 1], "weight_decay": 0.01},
                                   {"params": [p for p in params if p.dim() == 1], "weight_decay": 0}], lr=1e-3, foreach=False)
    loss, rows = forward()
    loss.backward()
    logits = torch.cat(rows).detach().numpy().reshape(-1)
    out = {"arch": arch, "way": way, "trainable": sum(e.index.numel() for e in entries.values()), "loss": [short(loss.item(), 9)],
           "last": [[short(x) for x in y[-1].tolist()] for y in rows], "logits": sketch("logits", logits),
           "grad": {name: sketch(name, e.grad()) for name, e in entries.items()}}
    loose = {}
    for name, e in entries.items():
        g = np.abs(e.grad())
        size = np.sqrt((g * g).mean())
        at = np.flatnonzero((g > 0) & (g < 1e-5 * size)) if size > NOTHING else []
        if len(at):
            loose[name] = [int(i) for i in at]
    for step in range(1, STEPS[-1] + 1):
        optimizer.step()
        optimizer.zero_grad()
        loss, _ = forward()
        loss.backward()
        if step in STEPS:
            out["loss"].append(short(loss.item(), 9))
    out["loose"], out["end"] = loose, {}
    for name, e in entries.items():
        x = e.value().copy()
        x[loose.get(name, [])] = 0
        out["end"][name] = sketch(name, x)
    return out


def describe(arch):
    """metadata and tensors of the GGUF: [name, k, n], n 0: a vector"""
    c = MODELS[arch]
    keys = {"block_count": c["layers"], "embedding_length": c["width"], "attention.head_count": c["heads"],
            "attention.head_count_kv": c["kv"], "attention.key_length": c["hd"], "attention.value_length": c["hd"],
            "feed_forward_length": c["ff"], "context_length": CONTEXT}
    keys["attention.layer_norm_epsilon" if arch in ("gpt2", "bert") else "attention.layer_norm_rms_epsilon"] = EPS
    if "theta" in c:
        keys["rope.freq_base"] = c["theta"]
    if arch == "gemma3":
        keys.update({"attention.sliding_window": WINDOW, "rope.scaling.factor": ROPE_FACTOR, "rope.scaling.type": "linear"})
    tensors = []
    for name, e in base_entries(arch, make_model(arch)).items():
        n = 0 if e.param.dim() == 1 else e.param.shape[0]
        k = e.index.numel() // max(n, 1)
        if arch == "gpt2" and n and not name[2:].startswith(("token", "position")):  # Conv1D has [in, out]
            k = e.param.shape[0]
            n = e.index.numel() // k
        tensors.append([name[2:], k, n])
    return {"arch": arch, "keys": keys, "tensors": tensors}


def main(path, only="", only_way=""):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    models, runs = [], []
    with Double():
        for arch in MODELS:
            if only and arch != only:
                continue
            models.append(describe(arch))
            for way in ("all", "lora", "rslora", "prompt", "prefix"):
                if (only_way and way != only_way) or (arch == "bert" and way in ("prompt", "prefix")):
                    continue
                runs.append(run(arch, way))
                print(arch, way, runs[-1]["trainable"], runs[-1]["loss"], runs[-1]["loose"], flush=True)
    if only:
        return
    lines = ["{\"models\": [", ",\n".join(json.dumps(m, separators=(",", ":")) for m in models), "], \"runs\": [",
             ",\n".join(json.dumps(r, separators=(",", ":")) for r in runs), "]}\n"]
    with open(path, "w") as f:
        f.write("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
