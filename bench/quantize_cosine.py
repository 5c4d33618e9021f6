#!/usr/bin/env python3
"""Cosine of an embedder's vectors to those of its float file for every type, and whether it falls with the bits within each family.

    quantize_cosine.py MARU MODEL SENTENCES.txt [--threads 2]

MODEL is a float GGUF or a Hugging Face folder, SENTENCES has one text a line. Exit status 1 where the order is broken. Families are what
is encoded alike: types of 32 with a scale, with scale and minimum, K mixes, tables, and 16 bits.
"""
import argparse, json, subprocess, sys, tempfile

FAMILIES = [["q4_0", "q5_0", "q8_0"], ["q4_1", "q5_1"], ["iq4_xs", "iq4_nl"], ["bf16", "f16"],
            ["q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"]]
p = argparse.ArgumentParser()
p.add_argument("maru"), p.add_argument("model"), p.add_argument("sentences"), p.add_argument("--threads", default="2")
a = p.parse_args()
with tempfile.TemporaryDirectory() as folder:
    out = subprocess.run([a.maru, "quantize", a.model, folder + "/sweep", "--sweep", "--eval", a.sentences, "-t", a.threads, "--json"],
                         capture_output=True, check=True).stdout
points = {x["type"]: x for x in json.loads(out)["sweep"]}
for x in sorted(points.values(), key=lambda x: -x["bits_per_weight"]):
    print("%-8s %7.3f bits  cosine %.6f, least %.6f" % (x["type"], x["bits_per_weight"], x["cosine"]["mean"], x["cosine"]["least"]))
bad = 0
for family in FAMILIES:
    order = sorted((points[t] for t in family), key=lambda x: (x["bits_per_weight"], x["cosine"]["mean"]))
    for less, more in zip(order, order[1:]):
        if not less["cosine"]["mean"] <= more["cosine"]["mean"]:
            bad += 1
            print("%s (%.3f bits) is nearer than %s (%.3f bits)" % (less["type"], less["bits_per_weight"], more["type"], more["bits_per_weight"]))
print("monotone within every family" if not bad else "%d pairs out of order" % bad)
sys.exit(bad > 0)
