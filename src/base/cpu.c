/* base/cpu.c - which instructions this machine has, and how far MARU_CPU lowers that.
 *
 * Three levels and not a bag of flags: every kernel exists for few machines, and a level says what all of its kernels may
 * assume. The compiler's check covers what the operating system saves of the registers. Other processors are generic. */
#include "base/base.h"
#include <pthread.h>
#include <stdlib.h>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static cpu_level best;
static atomic_int level;
static atomic_bool reference;

static cpu_level look(void)
{
#if defined(__x86_64__) || defined(__i386__)
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2") || !f16c)
        return CPU_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        return CPU_AVX512;
    return CPU_AVX2;
#else
    return CPU_GENERIC;
#endif
}

static err set(cpu_level to, bool ref)
{
    atomic_store(&level, to < best ? to : best); /* never above what the machine has */
    atomic_store(&reference, ref);
    return OK;
}

static err apply_mask(void)
{
    const char *word = getenv("MARU_CPU");
    if (!word || !word[0]) return set(best, false);
    if (!strcmp(word, "reference")) return set(best, true);
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (!strcmp(word, cpu_name((cpu_level)i))) return set((cpu_level)i, false);
    (void)set(best, false);
    return err_new(ERR_INPUT, "MARU_CPU is \"%s\"; it can be reference, generic, avx2 or avx512", word);
}

static void first_use(void)
{
    best = look();
    (void)apply_mask();
}

err cpu_init(void)
{
    pthread_once(&once, first_use);
    return apply_mask();
}

cpu_level cpu_best(void)
{
    pthread_once(&once, first_use);
    return best;
}

cpu_level cpu_now(void)
{
    pthread_once(&once, first_use);
    return (cpu_level)atomic_load_explicit(&level, memory_order_relaxed);
}

bool cpu_reference(void)
{
    pthread_once(&once, first_use);
    return atomic_load_explicit(&reference, memory_order_relaxed);
}

void cpu_force(cpu_level to, bool ref)
{
    pthread_once(&once, first_use);
    (void)set(to, ref);
}

const char *cpu_name(cpu_level l)
{
    static const char *const names[CPU_LEVEL_COUNT] = {"generic", "avx2", "avx512"};
    return (unsigned)l < CPU_LEVEL_COUNT ? names[l] : "?";
}
