/* tensor/cpu/cpu.h - private to the CPU backend: its steps and the choice of a kernel for a node (steps.c, steps_matmul.c). */
#ifndef MARU_TENSOR_CPU_H
#define MARU_TENSOR_CPU_H
#include "tensor/cpu/kern.h"

typedef struct step step;
typedef struct {
    const kern *k;
    int         thread, n_threads;
    u8         *shared;                     /* quantised activations of the current matmul */
    u8         *own;                        /* this thread's scratch */
} cpu_run;
struct step {
    void   (*run)(const step *, const cpu_run *);
    void   (*before)(const step *, const cpu_run *); /* at bind only: a step to put in front */
    tensor  *t;
};
typedef struct {
    step   *steps;
    usize   n, cap;
    usize   shared, per_thread;             /* bytes of scratch */
    tensor *quantised;                      /* at bind: the tensor whose 8-bit rows are in `shared` now */
} cpu_plan;
typedef struct {
    backend     be;
    pool       *pool;
    const kern *k;
    bool        reference, profile;
    double      seconds[OP_COUNT];
    i64         calls[OP_COUNT];
} cpu_backend;

/* fills s->run (and s->before) and says how much scratch it needs; false: no fast kernel */
bool step_choose(cpu_backend *, cpu_plan *, tensor *, step *, usize *per_thread, usize *shared);
bool step_choose_matmul(cpu_backend *, cpu_plan *, tensor *, step *, usize *per_thread, usize *shared);
#endif
