/* cli/cmd_merge.c - maru merge: adapters into the weights of a model, with the error that encoding them anew makes. */
#include "cli/cli.h"
#include <math.h>

typedef struct {
    adapter_use *use;
    int n;
    model *m;
    pool *threads;
} merging;

static err load_all(cli *c, merging *g, const char *name)
{
    char *path = NULL;
    usize n = c->arg.n - 1;
    g->use = mem_array(adapter_use, n);
    if (!g->use) return err_new(ERR_NOMEM, "out of memory");
    TRY(pool_new(&g->threads, (int)c->threads));
    TRY(model_resolve(&path, name));
    err bad = model_open(&g->m, path, g->threads);
    mem_free(path);
    for (usize i = 0; i < n && !bad.code; i++) {
        adapter_file *f = NULL;
        double scale;
        bad = cli_adapter_spec(c->arg.v[i + 1], &path, &scale);
        if (bad.code) break;
        bad = adapter_load(&f, path, g->m);
        mem_free(path);
        if (!bad.code) g->use[g->n++] = (adapter_use){f, (float)scale};
    }
    return bad;
}

static void report(cli *c, const char *out, const merge_report *r)
{
    json_set(c->out, "kld", json_f(r->kld));
    json_set(c->out, "max_abs_logit", json_f(r->max_abs_logit));
    json_set(c->out, "tokens", json_integer(r->tokens));
    json_set(c->out, "tensors", json_integer(r->changed));
    json_set(c->out, "bytes", json_integer((json_int_t)r->bytes));
    json_set(c->out, "path", json_cstr(out));
}

err cmd_merge(cli *c, int argc, char **argv)
{
    const char *out = NULL, *type = NULL;
    double limit = 0.01;
    bool force = false;
    merging g = {0};
    merge_report r;
    dtype to = DTYPE_COUNT;
    option opt[] = {{"-o --output", "OUT", "the merged model: NAME.gguf, or a new folder for Hugging Face's libraries", OPT_STR, &out},
                    {"--type", "T", "of the changed tensors: f32, f16, q8_0 ... (as they are)", OPT_STR, &type},
                    {"--limit", "NATS", "the largest divergence from the unmerged model (0.01)", OPT_F64, &limit},
                    {"--force", NULL, "writes it whatever it costs", OPT_FLAG, &force}};
    PARSE(c, opt, 2, 65);
    if (!out) return cli_missing("-o OUT");
    for (dtype t = 0; type && t < DTYPE_COUNT; t++)
        if (!strcmp(dtype_table[t].name, type) && dtype_table[t].encode) to = t;
    if (type && to == DTYPE_COUNT)
        return err_new(ERR_INPUT,
                       L("--type %s: 모르는 형식입니다 (f32, f16, bf16, q8_0, q4_k ...)",
                         "--type %s: no such type (f32, f16, bf16, q8_0, q4_k ...)"),
                       type);
    if (file_exists(out) && !str_ends(str_of(out), S(".gguf")))
        return err_new(ERR_INPUT, L("%s이(가) 이미 있습니다: 새 폴더의 이름이어야 합니다", "%s is there already: expected NAME.gguf or the name of a new folder"), out);
    if (file_is_dir(out)) return err_new(ERR_INPUT, L("%s은(는) 폴더입니다", "%s is a folder, expected a name for a GGUF"), out);
    err bad = load_all(c, &g, c->arg.v[0]);
    if (!bad.code) {
        bad = adapter_merge(g.m, &(adapter_mix){g.use, g.n}, out, to, limit, force, g.threads, &r);
        if (bad.code && r.tokens) report(c, NULL, &r), c->report = true; /* measured and refused: the figures are the answer */
    }
    if (!bad.code) {
        report(c, out, &r);
        if (!c->json)
            printf(
                L("%s: 텐서 %lld개를 합쳤습니다. 합치지 않은 모델과의 차이: 토큰마다 KL %.2g, 로짓 최대 %.2g\n",
                  "%s: %lld tensors merged. Against the unmerged model: KL %.2g nats a token, a logit differs by at most %.2g\n"),
                out, (long long)r.changed, r.kld, r.max_abs_logit);
    }
    for (int i = 0; i < g.n; i++) adapter_free((adapter_file *)(uintptr_t)g.use[i].file);
    mem_free(g.use);
    model_close(g.m);
    pool_free(g.threads);
    return bad;
}
