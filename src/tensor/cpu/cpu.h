/* tensor/cpu/cpu.h - private to the CPU backend: its steps and the choice of a kernel for a node (steps.c, steps_matmul.c). */
#ifndef MARU_TENSOR_CPU_H
#define MARU_TENSOR_CPU_H
#include "tensor/cpu/kern.h"

typedef struct step step;
typedef struct {
    const kern *k;
    int         thread, n_threads;
    u8         *shared;                     /* quantised activations of the current matmul */
    float      *angles;                     /* cosines and sines of positions: live through a run */
    u8         *own;                        /* this thread's scratch */
    pool       *pool;                       /* to meet inside a step; not where n_threads is 1 */
} cpu_run;
struct step {
    void   (*run)(const step *, const cpu_run *);
    tensor  *t;
    usize    at;                            /* of its table in cpu_run.angles, in floats; of its scratch in own, in bytes */
    tensor  *reads;                         /* neighbours with the same one write apart from what they read: no barrier between */
    bool     alone;                         /* too little to share: thread 0 does it, with no barrier to the next such step */
    bool     barrier;                       /* all threads meet after it */
    double   seconds;                       /* with a profile: CPU time of thread 0 so far */
};
typedef struct { /* what a node becomes */
    step  before, main;                     /* before.run NULL: nothing to do in front */
    usize per_thread, shared;               /* bytes of scratch */
} step_pair;
typedef struct {
    const tensor *pos, *factors;
    op_arg        arg;
    usize         at;
} angle_table;
typedef struct {
    step   *steps;
    usize   n, cap;
    usize   shared, angles, per_thread;     /* bytes of scratch; angles in floats */
    tensor *quantised;                      /* at bind: the tensor whose 8-bit rows are in `shared` now */
    angle_table tables[8]; int n_tables;    /* at bind: what `angles` holds; a model has one or two */
} cpu_plan;
typedef struct {
    backend     be;
    pool       *pool;
    const kern *k;
    bool        reference, profile;
    double      seconds[OP_COUNT];
    i64         calls[OP_COUNT];
} cpu_backend;

/* false: no fast kernel. Nothing was written to the plan then */
bool step_choose(cpu_backend *, cpu_plan *, tensor *, step_pair *);
bool step_choose_matmul(cpu_backend *, cpu_plan *, tensor *, step_pair *);
bool step_choose_train(tensor *, step_pair *);     /* steps_train.c: MATMUL in float arithmetic, MATMUL_X, MATMUL_W */
bool step_choose_lm_loss(cpu_plan *, tensor *, step_pair *);
bool step_choose_mul_one(tensor *, step_pair *);
#endif
