"""Writes tests/tensor/dtype_golden.h: blocks of every type and the float32 bits that the python package gguf decodes them to.

    pip install gguf && python3 tests/tensor/make_dtype_golden.py > tests/tensor/dtype_golden.h

Blocks are random bytes, so that every bit of every code and scale is exercised; their f16 scales are replaced by ordinary,
subnormal, negative and zero numbers in turn. Kept so that the vectors can be made again, or for a new type.
"""
import numpy as np
import gguf
from gguf.quants import dequantize

TYPES = {  # name: (type, bytes of a block, offsets of its f16 scales, blocks)
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, 34, [0], 6),
    "Q4_0": (gguf.GGMLQuantizationType.Q4_0, 18, [0], 6),
    "Q4_1": (gguf.GGMLQuantizationType.Q4_1, 20, [0, 2], 6),
    "Q5_0": (gguf.GGMLQuantizationType.Q5_0, 22, [0], 6),
    "Q4_K": (gguf.GGMLQuantizationType.Q4_K, 144, [0, 2], 2),
    "Q6_K": (gguf.GGMLQuantizationType.Q6_K, 210, [208], 2),
    "BF16": (gguf.GGMLQuantizationType.BF16, 2, [], 48),
    "F16": (gguf.GGMLQuantizationType.F16, 2, [], 48),
    "Q5_1": (gguf.GGMLQuantizationType.Q5_1, 24, [0, 2], 6),
    "Q5_K": (gguf.GGMLQuantizationType.Q5_K, 176, [0, 2], 2),
    "Q3_K": (gguf.GGMLQuantizationType.Q3_K, 110, [108], 2),
    "Q2_K": (gguf.GGMLQuantizationType.Q2_K, 84, [80, 82], 2),
    "IQ4_NL": (gguf.GGMLQuantizationType.IQ4_NL, 18, [0], 6),
    "IQ4_XS": (gguf.GGMLQuantizationType.IQ4_XS, 136, [0], 2),
    "MXFP4": (gguf.GGMLQuantizationType.MXFP4, 17, [], 6),
}
SCALES = np.array([0.0123, -0.75, 3.1e-6, 1.0, 0.0, 65504.0, 6e-8, -0.031], dtype=np.float16)


def rows(items, fmt, per_line):
    lines = [", ".join(fmt % x for x in items[i:i + per_line]) for i in range(0, len(items), per_line)]
    return "    " + ",\n    ".join(lines)


def main():
    rng = np.random.default_rng(20250101)
    print("/* Made by tests/tensor/make_dtype_golden.py with the python package gguf %s. */" % "0.19.0")
    at = 0
    for name, (kind, size, scales, n) in TYPES.items():
        data = rng.integers(0, 256, (n, size), dtype=np.uint8)
        if name in ("F16", "BF16"):  # numbers at the borders first; NaN is for the C test, payloads differ by converter
            special = [0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x3c00, 0xbc00, 0x7bff, 0x7c00, 0xfc00, 0x0200]
            half = np.concatenate([np.array(special, dtype=np.uint16), rng.integers(0, 0x7b00, n - len(special), dtype=np.uint16)])
            data = half.astype("<u2").view(np.uint8).reshape(n, size)
        for i in range(n):
            for off in scales:
                data[i, off:off + 2] = np.frombuffer(SCALES[at % len(SCALES)].tobytes(), dtype=np.uint8)
                at += 1
        if name == "F16":
            out = data.view("<f2").astype(np.float32).reshape(-1)
        else:
            out = dequantize(data.reshape(1, -1), kind).reshape(-1)
        out = np.ascontiguousarray(out, dtype=np.float32)
        print("static const u8 golden_%s_in[] = {\n%s};" % (name, rows(list(data.reshape(-1)), "%d", 36)))
        print("static const u32 golden_%s_out[] = {\n%s};" % (name, rows(list(out.view(np.uint32)), "0x%x", 12)))


if __name__ == "__main__":
    main()
