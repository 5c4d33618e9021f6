/* tensor/cpu/body_limits.c - what this machine can do at one instruction-set level: loops that do nothing but the multiply-adds
 * (or loads) that kernels are made of, from registers (or memory). They are the ceilings that `bench` divides by. */
#include "tensor/cpu/kern.h"
#ifndef ISA_generic
#include <immintrin.h>
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
void PASTE(kern_limits_, ISA)(kern *k);

#if defined(ISA_avx512)
typedef float reg __attribute__((vector_size(64)));
#elif defined(ISA_avx2)
typedef float reg __attribute__((vector_size(32)));
#else
typedef float reg __attribute__((vector_size(16)));
#endif
typedef float f16v __attribute__((vector_size(64)));

/* ten independent chains of a multiply and an add, as the float matmul has them; returns operations done */
static double rate_float(i64 rounds, float *sink)
{
    reg acc[10], a = (reg){0} + 1.000001f, b = (reg){0} + 0.5f;
    for (int i = 0; i < 10; i++) acc[i] = (reg){0} + (float)i;
    for (i64 r = 0; r < rounds; r++)
        for (int i = 0; i < 10; i++) {
            __asm__ volatile("" : "+x"(a)); /* or the product would be made once for all chains */
            acc[i] = acc[i] + a * b;
        }
    for (int i = 1; i < 10; i++) acc[0] += acc[i];
    *sink = acc[0][0] + acc[0][3];
    return (double)rounds * 10 * (double)(sizeof(reg) / sizeof(float)) * 2;
}

/* 8-bit products summed into 32 bits; returns operations (a multiply-add is two) */
static double rate_int8(i64 rounds, float *sink)
{
#if defined(ISA_avx512)
    __m512i acc[8], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int i = 0; i < 8; i++) acc[i] = _mm512_setzero_si512();
    for (i64 r = 0; r < rounds; r++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+v"(a));
            acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
        }
    }
    for (int i = 1; i < 8; i++) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    *sink = (float)_mm512_reduce_add_epi32(acc[0]);
    return (double)rounds * 8 * 64 * 2;
#elif defined(ISA_avx2)
    __m256i acc[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
    for (int i = 0; i < 8; i++) acc[i] = _mm256_setzero_si256();
    for (i64 r = 0; r < rounds; r++) { /* pairs into 16 bits, added there: widening every eighth is what kernels pay on top */
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a));
            acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(a, b));
        }
    }
    for (int i = 1; i < 8; i++) acc[0] = _mm256_add_epi16(acc[0], acc[i]);
    *sink = (float)_mm256_extract_epi16(acc[0], 0);
    return (double)rounds * 8 * 32 * 2;
#else
    typedef i16 i16v __attribute__((vector_size(16)));
    i16v acc[8], a = (i16v){0} + 3, b = (i16v){0} + 5;
    for (int i = 0; i < 8; i++) acc[i] = (i16v){0};
    for (i64 r = 0; r < rounds; r++)
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a));
            acc[i] = acc[i] + a * b;
        }
    for (int i = 1; i < 8; i++) acc[0] += acc[i];
    *sink = acc[0][0];
    return (double)rounds * 8 * 8 * 2;
#endif
}

static float read_all(const float *p, i64 n)
{
    f16v acc[4] = {{0}, {0}, {0}, {0}};
    for (i64 i = 0; i + 64 <= n; i += 64)
        for (int k = 0; k < 4; k++) {
            f16v x;
            memcpy(&x, p + i + 16 * k, sizeof x);
            acc[k] += x;
        }
    f16v sum = acc[0] + acc[1] + acc[2] + acc[3];
    return sum[0] + sum[7];
}

void PASTE(kern_limits_, ISA)(kern *k)
{
    k->rate_float = rate_float;
    k->rate_int8 = rate_int8;
    k->read_all = read_all;
}
