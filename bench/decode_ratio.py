#!/usr/bin/env python3
"""How many times faster each of some files of one model decodes than the first: maru bench in turn, medians.

    decode_ratio.py MARU FIRST.gguf OTHER.gguf... [--rounds 5] [--threads 2] [--tokens 16]

GB/s is what decoding read of the file's weights, beside what plain reading reached in the same run.
"""
import argparse, json, os, statistics, subprocess

p = argparse.ArgumentParser()
p.add_argument("maru"), p.add_argument("file", nargs="+")
p.add_argument("--rounds", type=int, default=5), p.add_argument("--threads", default="2"), p.add_argument("--tokens", default="16")
a = p.parse_args()
seen = {f: [] for f in a.file}
for _ in range(a.rounds):
    for f in a.file:
        out = subprocess.run([a.maru, "bench", f, "-p", "8", "-n", a.tokens, "-r", "1", "-t", a.threads, "--json"], capture_output=True, check=True).stdout
        o = json.loads(out)
        row = next(r for r in o["rows"] if r["test"] == "decode")
        seen[f].append((row["tps"], row["gbps"], o["read_gbps"]))
first = statistics.median(x[0] for x in seen[a.file[0]])
for f in a.file:
    tps, gbps, read = (statistics.median(x[i] for x in seen[f]) for i in range(3))
    turns = statistics.median(x[0] / y[0] for x, y in zip(seen[f], seen[a.file[0]]))
    print("%-24s %7.2f tokens/s  %5.2fx (of each round: %5.2fx)  %5.2f times smaller  %5.1f of %5.1f GB/s" % (
        os.path.basename(f), tps, tps / first, turns, os.path.getsize(a.file[0]) / os.path.getsize(f), gbps, read))
