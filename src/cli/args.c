/* cli/args.c - options from a table, and the small things every command prints with. */
#include "cli/cli.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const command *command_of(const char *name)
{
    for (const command *c = command_table;; c++)
        if (!strcmp(c->name, name)) return c;
}

static void help(const char *name, const option *o, usize n)
{
    const command *c = command_of(name);
    printf("maru %s%s%s\n%s\n\n", c->name, *c->args ? " " : "", c->args, L(c->help_ko, c->help_en));
    for (usize i = 0; i < n; i++) {
        char head[64];
        snprintf(head, sizeof head, o[i].kind == OPT_MAYBE ? "%s[=%s]" : o[i].value ? "%s %s" : "%s", o[i].name, o[i].value);
        printf("  %-24s %s\n", head, o[i].help);
    }
    static const char *const common[][2] = {{"--json", "one JSON object on standard output"}, {"-t --threads N", "threads (one for each core)"}, {"--seed N", "of random choices (0)"},
                                            {"--home DIR", "where models and collections live"}, {"-q --quiet", "no progress and no warnings"}, {"-v --verbose", "more about what is done"}};
    for (usize i = 0; i < COUNT_OF(common); i++) printf("  %-24s %s\n", common[i][0], common[i][1]);
    printf("\n%s\n  %s\n", L("예", "example"), c->example);
}

static bool named_so(const char *names, const char *word, usize n)
{
    for (const char *p = names; *p;) {
        usize len = strcspn(p, " ");
        if (len == n && !memcmp(p, word, n)) return true;
        p += len + (p[len] == ' ');
    }
    return false;
}

static err list_put(list *l, const char *v)
{
    return VEC_PUSH(l->v, l->n, l->cap, v) ? OK : err_new(ERR_NOMEM, "out of memory");
}

static err take(const option *o, const char *value)
{
    if (o->given) *o->given = true;
    switch (o->kind) {
    case OPT_FLAG: *(bool *)o->to = true; return OK;
    case OPT_STR:
    case OPT_MAYBE: *(const char **)o->to = value; return OK;
    case OPT_LIST: return list_put(o->to, value);
    case OPT_I64: return str_i64(str_of(value), o->to) ? OK : err_new(ERR_INPUT, L("%s %s: 정수여야 합니다", "%s %s: expected a whole number"), o->name, value);
    case OPT_F64:
        if (!str_f64(str_of(value), o->to) || !isfinite(*(double *)o->to)) return err_new(ERR_INPUT, L("%s %s: 수여야 합니다", "%s %s: expected a number"), o->name, value);
        return OK;
    }
    return OK;
}

/* one option at argv[*i]; a value comes after = or as the next word */
static err parse_option(const option *o, usize n, int argc, char **argv, int *i)
{
    char *word = argv[*i], *equals = strncmp(word, "--", 2) ? NULL : strchr(word, '=');
    usize len = equals ? (usize)(equals - word) : strlen(word);
    for (usize k = 0; k < n; k++) {
        if (!named_so(o[k].name, word, len)) continue;
        if (o[k].kind == OPT_FLAG) return equals ? err_new(ERR_INPUT, L("%s에는 값이 없습니다", "%s takes no value"), o[k].name) : take(&o[k], NULL);
        if (o[k].kind == OPT_MAYBE) return take(&o[k], equals ? equals + 1 : "");
        if (equals) return take(&o[k], equals + 1);
        if (*i + 1 >= argc) return err_new(ERR_INPUT, L("%s: 뒤에 %s이(가) 와야 합니다", "%s: expected %s after it"), o[k].name, o[k].value);
        TRY(take(&o[k], argv[++*i]));
        while (o[k].many && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2)) TRY(take(&o[k], argv[++*i]));
        return OK;
    }
    return err_new(ERR_INPUT, L("모르는 선택 사항 %s: maru %s --help가 보여 줍니다", "unknown option %s: maru %s --help lists them"), word, argv[0]);
}

err cli_parse(cli *c, int argc, char **argv, const option *o, usize n, int least, int most)
{
    const char *home = NULL;
    bool        verbose = false, only_words = false;
    option      common[] = {{"--json", NULL, "", OPT_FLAG, &c->json}, {"-t --threads", "N", "", OPT_I64, &c->threads}, {"--seed", "N", "", OPT_I64, &c->seed},
                            {"--home", "DIR", "", OPT_STR, &home}, {"-q --quiet", NULL, "", OPT_FLAG, &c->quiet}, {"-v --verbose", NULL, "", OPT_FLAG, &verbose}};
    for (int i = 1; i < argc; i++) {
        char *w = argv[i];
        if (only_words || w[0] != '-' || !w[1]) {
            TRY(list_put(&c->arg, w));
        } else if (!strcmp(w, "--")) {
            only_words = true;
        } else if (!strcmp(w, "--help") || !strcmp(w, "-h")) {
            help(argv[0], o, n);
            return (err){ERR_CANCELLED, ""};
        } else {
            bool is_common = false;
            for (usize k = 0; k < COUNT_OF(common); k++) is_common |= named_so(common[k].name, w, strcspn(w, "="));
            TRY(is_common ? parse_option(common, COUNT_OF(common), argc, argv, &i) : parse_option(o, n, argc, argv, &i));
        }
    }
    if (home) home_set(home);
    if (c->threads < 0 || c->threads > 256) return err_new(ERR_INPUT, "-t %lld: expected 1 to 256 threads", (long long)c->threads);
    log_set(c->quiet ? LOG_QUIET : verbose ? LOG_DEBUG : LOG_WARN);
    if ((int)c->arg.n < least || (int)c->arg.n > most) {
        const command *k = command_of(argv[0]);
        return err_new(ERR_INPUT, L("이렇게 씁니다: maru %s %s (낱말 %zu개가 왔습니다)", "expected: maru %s %s (%zu words given)"), k->name, k->args, c->arg.n);
    }
    return OK;
}

err cli_missing(const char *o) { return err_new(ERR_INPUT, L("%s이(가) 없습니다", "%s is missing"), o); }

err cli_file(const char *path, buf *out)
{
    if (strcmp(path, "-")) return file_read(out, path, 0);
    char  piece[4096];
    usize n;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0) buf_put(out, piece, n);
    return ferror(stdin) ? err_os("reading standard input") : buf_error(out);
}

void cli_print(str s) { fwrite(s.p, 1, s.n, stdout); }

void cli_shown(FILE *to, const char *text)
{
    str s = str_of(text);
    for (usize at = 0; at < s.n;) {
        usize from = at;
        u32   c = utf8_next(s, &at);
        if (c < 0x20 || (c >= 0x7F && c < 0xA0) || (c == 0xFFFD && at == from + 1)) fputc('?', to);
        else fwrite(s.p + from, 1, at - from, to);
    }
}

json_t *json_str(str s)
{
    if (utf8_valid(s)) return json_stringn_nocheck(s.p ? s.p : "", s.n);
    buf b = {0};
    for (usize at = 0; at < s.n;) buf_utf8(&b, utf8_next(s, &at));
    json_t *j = json_stringn_nocheck(buf_cstr(&b), b.n);
    buf_free(&b);
    return j;
}
json_t *json_cstr(const char *s) { return s ? json_str(str_of(s)) : json_null(); }
json_t *json_f(double x) { return isfinite(x) ? json_real(x) : json_null(); }
void    json_set(json_t *o, const char *key, json_t *value) { json_object_set_new_nocheck(o, key, value); }
void    json_push(json_t *a, json_t *value) { json_array_append_new(a, value); }

err cli_adapter_spec(const char *word, char **path, double *scale)
{
    const char *colon = strrchr(word, ':');
    *scale = 1;
    if (file_exists(word) || !colon || !str_f64(str_of(colon + 1), scale) || !isfinite(*scale)) colon = NULL, *scale = 1;
    *path = mem_strndup(word, colon ? (usize)(colon - word) : strlen(word));
    return *path ? OK : err_new(ERR_NOMEM, "out of memory");
}

static err adapters_of(const list *words, engine_adapter **out)
{
    *out = mem_array(engine_adapter, words->n + 1);
    if (!*out) return err_new(ERR_NOMEM, "out of memory");
    for (usize i = 0; i < words->n; i++) {
        char  *path;
        double scale;
        TRY(cli_adapter_spec(words->v[i], &path, &scale));
        (*out)[i] = (engine_adapter){path, (float)scale, 0};
    }
    return OK;
}

err cli_engine(cli *c, engine **e, const char *name, i64 kv_tokens) { return cli_engine_with(c, e, name, kv_tokens, &(list){0}); }

err cli_engine_with(cli *c, engine **e, const char *name, i64 kv_tokens, const list *adapters)
{
    char           *path = NULL;
    engine_adapter *a = NULL;
    *e = NULL;
    TRY(model_resolve(&path, name));
    err         bad = adapters_of(adapters, &a);
    engine_opts o = {.threads = (int)c->threads, .kv_tokens = kv_tokens, .adapters = a, .n_adapters = (int)adapters->n};
    bool        say = !c->quiet && isatty(2);
    if (say) fprintf(stderr, "%s %s...\r", L("여는 중", "opening"), name);
    if (!bad.code) bad = engine_open(e, path, &o);
    if (say) fprintf(stderr, "\033[K");
    for (usize i = 0; a && i < adapters->n; i++) mem_free((void *)(uintptr_t)a[i].path);
    mem_free(a);
    mem_free(path);
    return bad;
}

err cli_embedder(cli *c, collection *col, search_mode mode, const char *asked, engine **e)
{
    char *name = NULL;
    *e = NULL;
    if (mode == SEARCH_BM25) return OK;
    TRY(collection_meta_get(col, "embedder", &name));
    if (!name) return mode == SEARCH_AUTO ? OK : err_new(ERR_INPUT, "this collection has no vectors: it was added without -e EMBEDDER");
    err bad = cli_engine(c, e, asked ? asked : name, 0);
    if (bad.code == ERR_NOTFOUND && mode == SEARCH_AUTO) {
        log_line(LOG_WARN, L("임베딩 모델 %s을(를) 찾지 못해 낱말로만 찾습니다", "embedder %s is not installed: searching by keywords only"), name);
        bad = OK;
    }
    mem_free(name);
    return bad;
}
