/* cli/cli.h - private to cli/: one table of commands (main.c), one of options per command, output as text or one JSON object.
 * Argument parsing and printing only; what a command does stands in the floors below. */
#ifndef MARU_CLI_H
#define MARU_CLI_H
#include "base/base.h"
#include "engine/engine.h"
#include "eval/eval.h"
#include "model/model.h"
#include "rag/rag.h"
#include "tensor/tensor.h"
#include "text/text.h"
#include <jansson.h>

typedef enum { OPT_FLAG, OPT_STR, OPT_I64, OPT_F64, OPT_LIST /* may repeat; until the next option when `many` */, OPT_MAYBE /* --name or --name=VALUE */ } option_kind;
typedef struct {
    const char **v; usize n, cap;
} list;
typedef struct {
    const char *name;                       /* "--temp" or "-n"; both as "-n --tokens" */
    const char *value, *help;
    option_kind kind;
    void       *to;                         /* bool, const char *, i64, double, list, const char * ("" without value) */
    bool       *given;                      /* or NULL */
    bool        many;                       /* OPT_LIST: takes every word up to the next option */
} option;
typedef struct {
    bool        json, quiet;
    i64         threads;
    i64         seed;
    list        arg;                        /* words that are no options */
    json_t     *out;                        /* with --json: what is printed at the end */
    bool        report;                     /* out is worth printing although the command fails; the error is put into it */
} cli;
typedef struct command command;
struct command {
    const char *name, *group, *args, *help_en, *help_ko, *example;
    err (*run)(cli *, int argc, char **argv);
    bool stops;                             /* looks at cli_cancel: the first Ctrl-C lets it end in order */
};
extern const command command_table[];
extern atomic_bool   cli_cancel;            /* set by SIGINT in commands that stop in order */

/* Parses argv with the command's options and the common ones; too few or too many words, an unknown option or a bad number is
 * INPUT and says what was expected. Returns CANCELLED with an empty message after printing --help. */
err  cli_parse(cli *, int argc, char **argv, const option *, usize n_options, int least, int most);
#define PARSE(c, options, least, most) TRY(cli_parse(c, argc, argv, options, COUNT_OF(options), least, most))
err  cli_missing(const char *option);        /* INPUT: "--in COLLECTION is missing" */
err  cli_file(const char *path, buf *out);  /* "-": standard input, else the file */
void cli_print(str);                        /* to standard output, as it is */
void cli_shown(FILE *, const char *);       /* for a terminal: controls and malformed bytes, which names of files may hold, become '?' */
json_t *json_str(str);                      /* malformed UTF-8 replaced by U+FFFD */
json_t *json_cstr(const char *);            /* NULL gives null */
json_t *json_f(double);                     /* NaN and infinities give null */
void json_set(json_t *object, const char *key, json_t *value);
void json_push(json_t *array, json_t *value);
err  cli_engine(cli *, engine **, const char *model, i64 kv_tokens); /* resolves the name, opens, says on a terminal that it loads */
/* the same with `--adapter PATH[:SCALE]` of a list, all of them together in every request */
err  cli_engine_with(cli *, engine **, const char *model, i64 kv_tokens, const list *adapters);
err  cli_adapter_spec(const char *word, char **path, double *scale); /* owned path; a file of the whole name wins over a scale */
err  search_options(const char *mode, const char *fuse, double weight, i64 k, search_opts *); /* the words of --mode, --fuse ... checked */
/* the collection's embedder, opened; NULL when it has none or `mode` does not need one; a missing one is a warning and NULL */
err  cli_embedder(cli *, collection *, search_mode, const char *asked, engine **);

err cmd_pull(cli *, int, char **), cmd_models(cli *, int, char **), cmd_info(cli *, int, char **), cmd_tokenize(cli *, int, char **);
err cmd_run(cli *, int, char **), cmd_chat(cli *, int, char **), cmd_embed(cli *, int, char **), cmd_bench(cli *, int, char **);
err cmd_add(cli *, int, char **), cmd_sync(cli *, int, char **), cmd_docs(cli *, int, char **), cmd_remove(cli *, int, char **), cmd_text(cli *, int, char **), cmd_search(cli *, int, char **);
err cmd_ask(cli *, int, char **), cmd_calibrate(cli *, int, char **), cmd_eval(cli *, int, char **);
err cmd_merge(cli *, int, char **), cmd_quantize(cli *, int, char **);
err cmd_convert(cli *, int, char **), cmd_new(cli *, int, char **), cmd_tokenizer(cli *, int, char **);
err cmd_tune(cli *, int, char **), cmd_tune_check(cli *, int, char **), cmd_tune_train(cli *, int, char **), cmd_eval_classify(cli *, int, char **);

json_t *answer_json(const answer *);       /* what `ask --json` prints (cmd_ask.c) */
json_t *rects_json(const place *);         /* one object for each rectangle of a PDF (cmd_docs.c) */
err questions_load(const char *path, json_t **rows); /* JSONL with a "query" in each line; owned: json_decref */

/* shared by run and chat (cmd_run.c) */
typedef struct {
    sample_opts sample;
    double      temp, top_p, min_p, penalty;
    i64         tokens, top_k, ctx;
    list        stop, adapters;
    const char *probs;                      /* NULL: no table; "" or K */
    bool        ignore_end;
} run_opts;
#define RUN_OPTIONS(r)                                                                                                            \
    {"-n --tokens", "N", "tokens to write (128; in chat 512)", OPT_I64, &(r).tokens},                                                          \
        {"--temp", "T", "temperature; 0 takes the likeliest token (0)", OPT_F64, &(r).temp},                                      \
        {"--top-k", "K", "only the K likeliest tokens (0: off)", OPT_I64, &(r).top_k},                                            \
        {"--top-p", "P", "only the likeliest tokens that together have probability P (1: off)", OPT_F64, &(r).top_p},             \
        {"--min-p", "P", "only tokens at least P times as likely as the likeliest (0: off)", OPT_F64, &(r).min_p},                \
        {"--repeat-penalty", "X", "lowers tokens of the last 64 (1: off)", OPT_F64, &(r).penalty},                                \
        {"--stop", "TEXT", "stops before this text; may be given several times", OPT_LIST, &(r).stop},                            \
        {"--probs", "K", "a table of the K likeliest next tokens at each step (10)", OPT_MAYBE, &(r).probs},                      \
        {"--adapter", "PATH[:SCALE]", "what was taught, beside the model; may be given several times", OPT_LIST, &(r).adapters},   \
        {"--ctx", "N", "context to reserve, in tokens", OPT_I64, &(r).ctx},                                                       \
        {"--ignore-end", NULL, "goes on after the model's end token", OPT_FLAG, &(r).ignore_end}
run_opts run_defaults(void);
err run_check(const run_opts *);            /* before a model is opened for nothing */
/* writes on; text is streamed unless --json, everything is put into c->out */
err run_tokens(cli *, engine *, session *, const ids *prompt, run_opts *, buf *text);
#endif
