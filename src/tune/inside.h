/* tune/inside.h - what the files of tune/ say to each other and to nobody else. */
#ifndef MARU_TUNE_INSIDE_H
#define MARU_TUNE_INSIDE_H
#include "tune/tune.h"

#define NO_BEST 1e300 /* train_state.best before any evaluation */
double way_rate(tune_way);                  /* its learning rate when none is given */

/* log.c: a line a step, in order, also over an interruption: lines after `keep` steps are dropped */
typedef struct tune_log tune_log;
err  tune_log_open(tune_log **, const char *folder, i64 keep);
err  tune_log_step(tune_log *, const train_step *, double seconds);
err  tune_log_flush(tune_log *);
void tune_log_close(tune_log *);

/* folder.c: whose a folder is. Taken by one process at a time; what a killed one left half written is swept away */
err folder_check(const char *out, const train_opts *, bool *have_state); /* INPUT: it holds a run, and neither resume nor force was asked for */
err folder_take(const char *out, const train_opts *, int *lock, bool *have_state); /* BUSY; force: the state that was there is gone. Released by file_unlock */
err folder_publish(const adapter_file *, const char *out, const model *); /* the artifact, whole: until then the one that was there stays */

/* run.c */
err tune_config(const model *, const train_opts *, const tune_data *, i64 rows, char **json); /* owned: what must be equal for a run to go on */
err train_artifact(const model *, const trained_set *, const train_opts *, const tune_data *, const char *out, train_report *);
err metric_memory(const model *, pool *, trained_set *, feature_kind, const tune_data *train, const tune_data *held, usize *bytes); /* what train_metric would take */
err train_effect(const model *, pool *, trained_set *, const tune_data *, double *); /* largest |change of a logit| behind the first tokens of the first sample */
void plan_total(train_memory *, const model *, usize highest); /* rest and total, from the highest point of counted memory */
err train_metric(const model *, pool *, trained_set *, feature_kind, const tune_data *train, const tune_data *held, train_report *); /* label data: accuracy on held-out rows, and the loss of a classifier */

typedef void train_each(void *ctx, const train_step *);
err train_loop(model *, pool *, const tune_data *, const tune_data *held, const char *out, const train_opts *, train_each *, void *ctx, train_report *); /* train.c */
err train_features(model *, pool *, const tune_data *, const tune_data *held, const char *out, const train_opts *, train_each *, void *ctx, train_report *); /* features.c */
#endif
