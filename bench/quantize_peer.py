#!/usr/bin/env python3
"""maru quantize beside llama-quantize on the same float GGUF: tensor types, file size, equal bytes, time, peak memory.

    quantize_peer.py MARU LLAMA_QUANTIZE INPUT.gguf TYPE... [--rounds 5] [--threads 2] [--folder DIR]

The two take turns; a time is a median over the rounds, `wall` ends when the process does and `cpu` is what its threads used. maru
waits until its file is on the disk (fsync, then the name), llama-quantize leaves it to the kernel: `synced` is the wall time with a
sync of the file counted for both. Outputs are deleted. No package is needed.
"""
import argparse, os, statistics, struct, subprocess, sys, time

SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
         12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 30: (1, 2), 39: (32, 17), 26: (1, 4)}
NAMES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K",
         14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 39: "MXFP4", 26: "I32"}


def tensors(path):
    """name -> (type, first byte, bytes) of a GGUF"""
    f = open(path, "rb")
    number = lambda form: struct.unpack("<" + form, f.read(struct.calcsize(form)))[0]
    text = lambda: f.read(number("Q")).decode()
    scalar = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            of, n = number("I"), number("Q")
            if of in scalar:
                f.seek(struct.calcsize(scalar[of]) * n, 1)
                return None
            return [value(of) for _ in range(n)]
        return number(scalar[kind])

    assert f.read(4) == b"GGUF" and number("I") == 3
    n_tensors, n_metas = number("Q"), number("Q")
    meta = {}
    for _ in range(n_metas):
        key = text()
        meta[key] = value(number("I"))
    found = []
    for _ in range(n_tensors):
        name, dims = text(), number("I")
        extents = [number("Q") for _ in range(dims)]
        found.append((name, extents, number("I"), number("Q")))
    align = meta.get("general.alignment", 32)
    start = (f.tell() + align - 1) // align * align
    all_of = {}
    for name, extents, kind, offset in found:
        block, size = SIZES[kind]
        n = 1
        for e in extents:
            n *= e
        all_of[name] = (kind, start + offset, n // block * size)
    return all_of


def equal_bytes(a, b, ta, tb):
    import array
    same = total = 0
    worst = (1.0, "")
    fa, fb = open(a, "rb"), open(b, "rb")
    for name, (kind, at, size) in ta.items():
        if tb[name][0] != kind:
            continue
        fa.seek(at), fb.seek(tb[name][1])
        good, left = 0, size
        while left:
            x, y = fa.read(min(left, 1 << 20)), fb.read(min(left, 1 << 20))
            left -= len(x)
            if x == y:
                good += len(x)
            else:  # zero bytes of the difference, counted by the C library
                d = (int.from_bytes(x, "little") ^ int.from_bytes(y, "little")).to_bytes(len(x), "little")
                good += d.count(0)
        same, total = same + good, total + size
        worst = min(worst, (good / size if size else 1.0, name))
    return same, total, worst


def run(command, out, sync):
    if os.path.exists(out):
        os.unlink(out)
    start = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
    _, status, use = os.wait4(pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit("failed: " + " ".join(command))
    if sync:
        fd = os.open(out, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return wall, use.ru_utime + use.ru_stime, time.monotonic() - start, use.ru_maxrss / 1024


def main():
    p = argparse.ArgumentParser()
    p.add_argument("maru"), p.add_argument("llama"), p.add_argument("input"), p.add_argument("type", nargs="+")
    p.add_argument("--rounds", type=int, default=5), p.add_argument("--threads", default="2"), p.add_argument("--folder", default=".")
    a = p.parse_args()
    ours, theirs = os.path.join(a.folder, ".peer-a.gguf"), os.path.join(a.folder, ".peer-b.gguf")
    print("%-8s %-7s %-26s %9s %10s %6s %6s %6s %7s %7s" % ("type", "types", "of tensors", "size", "equal", "wall", "cpu", "synced", "MiB", "MiB"))
    for t in a.type:
        m = [a.maru, "quantize", a.input, ours, "--type", t, "-q", "-t", a.threads]
        l = [a.llama, a.input, theirs, t, a.threads]
        times = [(run(m, ours, True), run(l, theirs, True)) for _ in range(a.rounds)]
        ratio = [statistics.median(y[i] for _, y in times) / statistics.median(x[i] for x, _ in times) for i in range(3)]
        ta, tb = tensors(ours), tensors(theirs)
        kinds = {n: v[0] for n, v in ta.items()}
        agree = kinds == {n: v[0] for n, v in tb.items()}
        same, total, worst = equal_bytes(ours, theirs, ta, tb)
        sa, sb = os.path.getsize(ours), os.path.getsize(theirs)
        counts = sorted({NAMES[k]: list(kinds.values()).count(k) for k in set(kinds.values())}.items())
        print("%-8s %-7s %-26s %+8.4f%% %9.4f%% %5.2fx %5.2fx %5.2fx %7.0f %7.0f" % (
            t, "same" if agree else "DIFFER", " ".join("%s %d" % c for c in counts), 100 * (sa - sb) / sb, 100 * same / total,
            *ratio, max(x[3] for x, _ in times), max(y[3] for _, y in times)), flush=True)
        os.unlink(ours), os.unlink(theirs)


main()
