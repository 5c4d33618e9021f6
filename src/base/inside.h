/* base/inside.h - what the files of this folder say to each other and to nobody else. */
#ifndef MARU_BASE_INSIDE_H
#define MARU_BASE_INSIDE_H
#include "base/base.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

void mem_cap(usize bytes); /* counted memory may not pass this; 0: no cap. For a confined child, where RLIMIT_AS is no use under a
                              sanitizer */
bool mem_fail_hit(void);   /* the failure asked for by mem_fail_at has happened */
u64 random_u64(void);      /* from the kernel; for names and seeds, not for keys */

#endif
