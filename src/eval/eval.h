/* eval/eval.h - numbers with error bars: retrieval metrics, intervals, classification, likelihood of text. Knows no documents. */
#ifndef MARU_EVAL_H
#define MARU_EVAL_H
#include "base/base.h"
#include "engine/engine.h"

typedef struct { double mean, low, high; } interval;        /* 95 % */
interval eval_mean(const double *x, usize n, u64 seed);     /* percentile bootstrap of the mean, 2,000 resamples; n = 0: NaNs */
interval eval_share(i64 k, i64 n);                          /* Wilson score interval */
interval eval_paired(const double *a, const double *b, usize n, u64 seed); /* of the mean difference a - b */

/* retrieval, binary relevance: `rank` are the found ids in order (each once), `gold` the relevant ones */
typedef struct { double recall1, recall5, recall10, mrr10, ndcg10; } ranking;
ranking eval_ranking(const char *const *rank, usize n, const char *const *gold, usize n_gold); /* nDCG: ideal from n_gold; MRR at 10 */
double  eval_auc(const double *positive, usize n, const double *negative, usize m); /* ties count half */

/* classification */
typedef struct { usize n; double accuracy, macro_f1; interval accuracy_ci; i64 *confusion; /* [classes,classes] row: truth; owned: mem_free */ int classes; } classified;
err eval_classes(const int *truth, const int *given, usize n, int classes, classified *);

/* mean negative log likelihood of a text: windows of ctx tokens, each scored from its start; NaN-free or an error */
typedef struct { i64 tokens; double nll, ppl; } likelihood;
err eval_nll(engine *, str text, i64 ctx, likelihood *, progress *);
#endif
