/* model/arch.h - private to model/: the architecture table, the reading of hyperparameters and the binding of tensors. */
#ifndef MARU_MODEL_ARCH_H
#define MARU_MODEL_ARCH_H
#include "model/model.h"

extern const arch_row arch_table[];
const arch_row *arch_find(str name);        /* NULL when there is no such row */
err             arch_unknown(str name);     /* UNSUPPORTED, naming what there is */
err             hparams_read(model *);      /* hparams.c: metadata -> m->h, checked */
err             weights_bind(model *, pool *, bool pack); /* weights.c: tensors -> m->layers ..., shapes checked against m->h, packed */
err             model_open_mapped(model **, const char *path); /* open.c: weights stay as the file has them, for looking and copying */
err             text_bind(model *);         /* open.c: tokenizer and chat template from metadata */
#endif
