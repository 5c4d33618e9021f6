#!/usr/bin/env python3
"""Makes and checks the golden adapters of tests/model/test_adapter.c against the real PEFT.

    peft_golden.py make  FOLDER/smollm2-135m.gguf tests/golden [NAME]   writes peft-*/ (or one) and peft-golden.json
    peft_golden.py check FOLDER/smollm2-135m.gguf ADAPTER OUT.json   logits of an adapter as PEFT computes them; "" : none

The base model is the GGUF, decoded to float32 by transformers (needs: torch, transformers, peft, gguf). Adapters are random, a few
layers only and stored as F16, to stay small; what is compared is logits of 32 ids at every position of one text.
"""
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOKENS = [504, 3575, 282, 4649, 314, 7042, 30, 198, 1, 4093, 198, 19556, 339]


def base(path):
    folder, name = os.path.split(path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.config.name_or_path = model.name_or_path = "smollm2-135m"
    return model.eval()


def logits(model):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([TOKENS])).logits[0]
    out = out[-len(TOKENS):]
    return [[float(x) for x in row[::1536]] for row in out], [int(row.argmax()) for row in out]


def randomize(model, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.requires_grad:
            new = torch.randn(p.shape, generator=g) * (0.5 if "prompt" in name else 0.08)
            p.data = p.data + new if "norm" in name else new


def configs():
    few = {"layers_to_transform": [0, 11, 29], "layers_pattern": "layers"}
    yield "lora", LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **few)
    yield "rslora", LoraConfig(
        r=2, lora_alpha=4, use_rslora=True, task_type="CAUSAL_LM", layers_to_transform=[3, 20], layers_pattern="layers",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        rank_pattern={"k_proj": 3, r"layers\.20\.mlp\.up_proj": 1}, alpha_pattern={r".*\.3\.self_attn\.o_proj": 9.0})
    yield "prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    yield "prefix", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    yield "saved", LoraConfig(r=1, lora_alpha=2, target_modules=["k_proj"], modules_to_save=["input_layernorm"],
                              task_type="CAUSAL_LM", layers_to_transform=[5], layers_pattern="layers")


def make(path, out, only=""):
    file = os.path.join(out, "peft-golden.json")
    golden = {"tokens": TOKENS, "stride": 1536}
    if only:
        with open(file) as f:
            golden = json.load(f)
    for seed, (name, config) in enumerate(configs()):
        if only and name != only:
            continue
        folder = os.path.join(out, "peft-" + name)
        shutil.rmtree(folder, ignore_errors=True)
        model = get_peft_model(base(path), config)
        randomize(model, seed)
        model.save_pretrained(folder)
        tensors = os.path.join(folder, "adapter_model.safetensors")
        save_file({k: v.half() for k, v in load_file(tensors).items()}, tensors, metadata={"format": "pt"})
        if os.path.exists(os.path.join(folder, "README.md")):
            os.remove(os.path.join(folder, "README.md"))
        model = PeftModel.from_pretrained(base(path), folder).eval()
        rows, best = logits(model)
        golden[name] = {"logits": [[round(x, 6) for x in row] for row in rows], "best": best}
    if not only:
        rows, best = logits(base(path))
        golden["base"] = {"logits": [[round(x, 6) for x in row] for row in rows], "best": best}
    with open(file, "w") as f:
        json.dump(golden, f)


def check(path, adapter, out):
    model = base(path)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).eval()
    rows, best = logits(model)
    with open(out, "w") as f:
        json.dump({"tokens": TOKENS, "stride": 1536, "logits": rows, "best": best}, f)


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
