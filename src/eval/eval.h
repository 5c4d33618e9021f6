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

/* ---- texts through a model as it is served, or with something trained in place (score.c): packed, without pages ----------------- */
typedef enum { FEATURE_LAST, FEATURE_SECOND, FEATURE_MEAN4, FEATURE_CONCAT4 } feature_kind; /* of the last blocks, after the last norm for the last one */
err  feature_parse(const char *, feature_kind *);           /* "last second mean4 concat4" */
const char *feature_name(feature_kind);
i64  feature_dim(const model *, feature_kind);
pool_kind eval_pool(const model *);                         /* which rows speak for a text: the last one of a decoder, an encoder's own pooling */
typedef struct { const i32 *id; i64 n; } token_seq;
err  eval_features(const model *, pool *, trained_set * /* or NULL */, const token_seq *, usize n, feature_kind, float *out /* [dim,n] */, progress *);
err  eval_classifier(const model *, pool *, trained_set *, const token_seq *, usize n, feature_kind, float *scores /* [classes,n] */, progress *); /* TRAIN_CLASSES over features; whatever else the set has takes part in them */
/* scores [n_labels,n]: ln p(label's tokens | text), divided by their number */
err  eval_labels(const model *, pool *, trained_set * /* or NULL */, const token_seq *text, usize n, const token_seq *label, usize n_labels, float *scores, progress *);
/* What eval_features (label NULL) or eval_labels would take for such texts beside `out` and `scores`: planned, nothing runs. */
err  eval_memory(const model *, pool *, trained_set *, const token_seq *, usize n, feature_kind, const token_seq *label, usize n_labels, usize *bytes);
void eval_best(const float *scores, usize n, usize n_labels, int *given); /* the highest of each column, the first among equals */

/* mean negative log likelihood of a text: windows of ctx tokens, each scored from its start; NaN-free or an error */
typedef struct { i64 tokens; double nll, ppl; } likelihood;
err eval_nll(engine *, str text, i64 ctx, likelihood *, progress *);
#endif
