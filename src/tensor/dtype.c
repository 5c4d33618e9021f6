/* tensor/dtype.c - number and block formats: their table, and what a row of any type means in float32.
 *
 * Decoders follow ggml's published layouts bit by bit, in the same float32 operations, so that decoded weights equal those of
 * every other program that reads the file (tests/tensor/make_dtype_golden.py checks against the python package gguf).
 * Both ways of blocks live in cpu/body_values.c and cpu/body_encode*.c; here a row goes to the level in force. None crashes on NaN
 * or infinity, but a block that holds one decodes to nothing meaningful. */
#include "tensor/block.h"
#include "tensor/cpu/kern.h"

/* ---- scalars ---------------------------------------------------------------------------------------------------------- */
static u32 bits_of(float f)
{
    union {
        float f;
        u32 u;
    } x = {f};
    return x.u;
}
static float float_of(u32 u)
{
    union {
        u32 u;
        float f;
    } x = {u};
    return x.f;
}

/* the exponent's bias is moved by a product, exact for subnormals too; infinity and NaN (payload kept) need a full exponent */
static inline float half_value(u16 h)
{
    u32 rest = h & 0x7fff, full = rest >= 0x7c00 ? 0x7f800000 : 0;
    return float_of(bits_of(float_of(rest << 13) * 0x1p112f) | full | (u32)(h & 0x8000) << 16);
}
float f16_to_f32(u16 h) { return half_value(h); }

u16 f32_to_f16(float f)
{
    u32 u = bits_of(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (u16)(sign | 0x7e00 | (a >> 13 & 0x3ff)); /* NaN stays NaN, made quiet as the hardware does */
    if (a >= 0x47800000) return (u16)(sign | 0x7c00);                    /* 65536 and more */
    if (a < 0x38800000) /* below 2^-14: the addition rounds to multiples of 2^-24 */
        return (u16)(sign | (bits_of(float_of(a) + 0.5f) - 0x3f000000));
    return (u16)(sign | ((a + 0xfff + (a >> 13 & 1) - (112u << 23)) >> 13)); /* a carry out of 65504 gives infinity */
}

u16 f32_to_bf16(float f)
{
    u32 u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (u16)(u >> 16 | 0x40);
    return (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* ---- decode: src in file layout, dst [n] ------------------------------------------------------------------------------- */
static void decode_f32(const void *src, float *dst, i64 n) { memcpy(dst, src, (usize)n * sizeof *dst); }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers in files are little endian and are mapped as they are");
/* 16-bit floats as the level in force converts them; a NaN comes out quiet */
static void decode_f16(const void *src, float *dst, i64 n) { kern_get(cpu_now())->from_f16(dst, src, n); }
static void decode_bf16(const void *src, float *dst, i64 n) { kern_get(cpu_now())->from_bf16(dst, src, n); }
static void decode_f64(const void *src, float *dst, i64 n)
{
    for (i64 i = 0; i < n; i++) {
        double v;
        memcpy(&v, (const u8 *)src + 8 * i, sizeof v);
        dst[i] = (float)v;
    }
}
static void decode_i32(const void *src, float *dst, i64 n)
{
    for (i64 i = 0; i < n; i++) {
        i32 v;
        memcpy(&v, (const u8 *)src + 4 * i, sizeof v);
        dst[i] = (float)v;
    }
}

/* blocks: as the level in force takes them apart */
#define DECODE_ROW(type, name)                                                                                                   \
    static void decode_##name(const void *src, float *dst, i64 n) { kern_get(cpu_now())->decode[type](src, dst, n); }
DECODE_ROW(Q8_0, q8_0)
DECODE_ROW(Q4_0, q4_0)
DECODE_ROW(Q4_1, q4_1)
DECODE_ROW(Q5_0, q5_0)
DECODE_ROW(Q5_1, q5_1)
DECODE_ROW(Q6_K, q6_k)
DECODE_ROW(Q5_K, q5_k)
DECODE_ROW(Q4_K, q4_k)
DECODE_ROW(Q3_K, q3_k)
DECODE_ROW(Q2_K, q2_k)
DECODE_ROW(IQ4_NL, iq4_nl)
DECODE_ROW(IQ4_XS, iq4_xs)
DECODE_ROW(MXFP4, mxfp4)

/* ---- encode: src [n], dst in file layout -------------------------------------------------------------------------------- */
static void encode_f32(const float *src, void *dst, i64 n) { memcpy(dst, src, (usize)n * sizeof *src); }
static void encode_f64(const float *src, void *dst, i64 n)
{
    for (i64 i = 0; i < n; i++) {
        double v = src[i];
        memcpy((u8 *)dst + 8 * i, &v, sizeof v);
    }
}

#define ENCODE_ROW(type, name)                                                                                                   \
    static void encode_##name(const float *src, void *dst, i64 n) { kern_get(cpu_now())->encode[type](src, NULL, n, dst); }
ENCODE_ROW(F16, f16)
ENCODE_ROW(BF16, bf16)
ENCODE_ROW(Q8_0, q8_0)
ENCODE_ROW(Q4_0, q4_0)
ENCODE_ROW(Q4_1, q4_1)
ENCODE_ROW(Q5_0, q5_0)
ENCODE_ROW(Q5_1, q5_1)
ENCODE_ROW(Q6_K, q6_k)
ENCODE_ROW(Q5_K, q5_k)
ENCODE_ROW(Q4_K, q4_k)
ENCODE_ROW(Q3_K, q3_k)
ENCODE_ROW(Q2_K, q2_k)
ENCODE_ROW(IQ4_NL, iq4_nl)
ENCODE_ROW(IQ4_XS, iq4_xs)
ENCODE_ROW(MXFP4, mxfp4)

/* ---- the table ----------------------------------------------------------------------------------------------------------- */
const dtype_info dtype_table[DTYPE_COUNT] = {
    [F32] = {"f32", 0, 1, 4, false, decode_f32, encode_f32},
    [F16] = {"f16", 1, 1, 2, false, decode_f16, encode_f16},
    [BF16] = {"bf16", 30, 1, 2, false, decode_bf16, encode_bf16},
    [F64] = {"f64", 28, 1, 8, false, decode_f64, encode_f64},
    [I32] = {"i32", 26, 1, 4, false, decode_i32, NULL},
    [Q8_0] = {"q8_0", 8, Q32, sizeof(block_q8_0), true, decode_q8_0, encode_q8_0},
    [Q4_0] = {"q4_0", 2, Q32, sizeof(block_q4_0), true, decode_q4_0, encode_q4_0},
    [Q4_1] = {"q4_1", 3, Q32, sizeof(block_q4_1), true, decode_q4_1, encode_q4_1},
    [Q5_0] = {"q5_0", 6, Q32, sizeof(block_q5_0), true, decode_q5_0, encode_q5_0},
    [Q4_K] = {"q4_k", 12, QK, sizeof(block_q4_k), true, decode_q4_k, encode_q4_k},
    [Q6_K] = {"q6_k", 14, QK, sizeof(block_q6_k), true, decode_q6_k, encode_q6_k},
    [Q5_1] = {"q5_1", 7, Q32, sizeof(block_q5_1), true, decode_q5_1, encode_q5_1},
    [Q5_K] = {"q5_k", 13, QK, sizeof(block_q5_k), true, decode_q5_k, encode_q5_k},
    [Q3_K] = {"q3_k", 11, QK, sizeof(block_q3_k), true, decode_q3_k, encode_q3_k},
    [Q2_K] = {"q2_k", 10, QK, sizeof(block_q2_k), true, decode_q2_k, encode_q2_k},
    [IQ4_NL] = {"iq4_nl", 20, Q32, sizeof(block_iq4_nl), true, decode_iq4_nl, encode_iq4_nl},
    [IQ4_XS] = {"iq4_xs", 23, QK, sizeof(block_iq4_xs), true, decode_iq4_xs, encode_iq4_xs},
    [MXFP4] = {"mxfp4", 39, Q32, sizeof(block_mxfp4), true, decode_mxfp4, encode_mxfp4},
};

dtype dtype_of_gguf(u32 ggml_type)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (dtype_table[t].gguf >= 0 && (u32)dtype_table[t].gguf == ggml_type) return (dtype)t;
    return DTYPE_COUNT;
}
