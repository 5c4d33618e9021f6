/* cli/cmd_model.c - maru pull, models, info, tokenize, embed. */
#include "cli/cli.h"
#include <stdlib.h>

err cmd_tokenize(cli *c, int argc, char **argv)
{
    list   texts = {0};
    bool   raw = false;
    option opt[] = {{"--text", "T", "the text", OPT_LIST, &texts}, {"--raw", NULL, "no BOS, no special tokens parsed", OPT_FLAG, &raw}};
    model *m = NULL;
    char  *path = NULL;
    buf    b = {0};
    ids    t = {0};
    err    bad;
    PARSE(c, opt, 1, 2);
    if ((c->arg.n == 2) + (int)texts.n != 1) return err_new(ERR_INPUT, "expected one text: --text T, or a file");
    TRY_TO(done, model_resolve(&path, c->arg.v[0]));
    TRY_TO(done, model_open_tokenizer(&m, path));
    if (texts.n) buf_puts(&b, texts.v[0]);
    else TRY_TO(done, cli_file(c->arg.v[1], &b));
    if (b.n) TRY_TO(done, tokenize(m->tok, buf_view(&b), raw ? 0 : TOKENIZE_BOS | TOKENIZE_SPECIAL, &t));
    json_t *list_of = json_array(), *pieces = json_array();
    for (usize i = 0; i < t.n; i++) {
        str p = token_piece(m->tok, t.id[i]); /* as stored: a token may be less than a character */
        json_push(list_of, json_integer(t.id[i]));
        json_push(pieces, json_str(p));
        if (!c->json) printf("%7d  %.*s\n", t.id[i], (int)p.n, p.p);
    }
    json_set(c->out, "ids", list_of);
    json_set(c->out, "pieces", pieces);
done:
    mem_free(path);
    model_close(m);
    buf_free(&b);
    ids_free(&t);
    mem_free(texts.v);
    return bad;
}

err cmd_pull(cli *c, int argc, char **argv)
{
    pulled p = {0};
    TRY(cli_parse(c, argc, argv, NULL, 0, 1, 1));
    TRY(model_pull(&p, c->arg.v[0]));
    static const char *from[] = {"already installed", "a verified copy on this machine", "package mirror", "address", "file"};
    json_set(c->out, "name", json_cstr(p.name));
    json_set(c->out, "path", json_cstr(p.path));
    json_set(c->out, "bytes", json_integer(p.bytes));
    json_set(c->out, "sha256", json_string(p.sha256));
    json_set(c->out, "licence", json_cstr(p.licence));
    json_set(c->out, "from", json_string(from[p.origin]));
    json_set(c->out, "unmarked", json_boolean(p.entry && p.entry->third_party_unmarked));
    if (!c->json) printf("%s  %s  (%s; %s)\n", p.name, p.path, p.licence, from[p.origin]);
    if (p.entry && p.entry->third_party_unmarked)
        log_line(LOG_WARN, L("%s: 이 꾸러미에는 사용 허가와 만든 이가 적혀 있지 않습니다. 허가는 원본 모델의 것입니다: %s", "%s: the packages name no licence or maker; the licence is that of the original: %s"), p.name, p.entry->source);
    pulled_reset(&p);
    return OK;
}

static void models_print(const installed_model *m, usize n)
{
    printf("%s\n", L("설치된 모델", "installed"));
    for (usize i = 0; i < n; i++) printf("  %-22s %8.1f MB  %s\n", m[i].name, (double)m[i].bytes / 1e6, m[i].path);
    if (!n) printf("  -\n");
    printf("\n%s\n", L("받을 수 있는 모델 (maru pull NAME)", "to be had (maru pull NAME)"));
    for (usize i = 0; catalogue_at(i); i++) {
        const model_entry *e = catalogue_at(i);
        printf("  %-22s %8.1f MB  %-18s  %s%s\n", e->name, (double)e->bytes / 1e6, e->licence, L(e->what_ko, e->what), e->third_party_unmarked ? L(" [꾸러미에 허가 표시 없음]", " [packages name no licence]") : "");
    }
}

err cmd_models(cli *c, int argc, char **argv)
{
    installed_model *m = NULL;
    usize            n = 0;
    TRY(cli_parse(c, argc, argv, NULL, 0, 0, 0));
    arena *a = arena_new();
    if (!a) return err_new(ERR_NOMEM, "out of memory");
    err     bad = models_installed(a, &m, &n);
    json_t *have = json_array(), *all = json_array();
    for (usize i = 0; !bad.code && i < n; i++)
        json_push(have, json_pack("{s:o,s:o,s:I,s:o}", "name", json_cstr(m[i].name), "path", json_cstr(m[i].path), "bytes", (json_int_t)m[i].bytes, "licence", json_cstr(m[i].entry ? m[i].entry->licence : NULL)));
    for (usize i = 0; catalogue_at(i); i++) {
        const model_entry *e = catalogue_at(i);
        json_push(all, json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:b}", "name", e->name, "what", e->what, "licence", e->licence, "source", e->source, "sha256", e->sha256, "bytes", (json_int_t)e->bytes, "unmarked", e->third_party_unmarked));
    }
    json_set(c->out, "installed", have);
    json_set(c->out, "catalogue", all);
    if (!bad.code && !c->json) models_print(m, n);
    arena_free(a);
    return bad;
}

static const char *licence_of(const model *m)
{
    for (usize i = 0; catalogue_at(i); i++)
        if (catalogue_at(i)->bytes == (i64)m->file_bytes && str_ends(str_of(m->path), str_of(catalogue_at(i)->file))) return catalogue_at(i)->licence;
    return NULL;
}

static void info_types(const model *m, json_t *types)
{
    for (usize i = 0; i < file_n_tensors(m->file); i++) {
        const char *name = dtype_table[file_tensor_at(m->file, i)->type].name;
        json_set(types, name, json_integer(json_integer_value(json_object_get(types, name)) + 1));
    }
}

static const char *file_type_name(i64 t) /* general.file_type, llama.cpp's numbers */
{
    static const struct { i64 n; const char *name; } names[] = {{0, "f32"}, {1, "f16"}, {2, "q4_0"}, {3, "q4_1"}, {7, "q8_0"}, {8, "q5_0"}, {9, "q5_1"}, {10, "q2_k"}, {12, "q3_k_m"}, {14, "q4_k_s"}, {15, "q4_k_m"}, {16, "q5_k_s"}, {17, "q5_k_m"}, {18, "q6_k"}, {32, "bf16"}};
    for (usize i = 0; i < COUNT_OF(names); i++)
        if (names[i].n == t) return names[i].name;
    return "unknown";
}

static json_t *meta_text(const model *m, const char *key)
{
    str s;
    return file_meta(m->file, key) && !file_str(m->file, key, &s).code ? json_str(s) : json_null();
}

static void info_print(cli *c)
{
    const char *key;
    json_t     *v;
    json_object_foreach(c->out, key, v)
    {
        char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        printf("%-16s %s\n", key, text ? text : json_string_value(v));
        free(text); /* jansson's memory */
    }
}

err cmd_info(cli *c, int argc, char **argv)
{
    engine     *e = NULL;
    const char *licence = NULL;
    TRY(cli_parse(c, argc, argv, NULL, 0, 1, 1));
    TRY(cli_engine(c, &e, c->arg.v[0], 0));
    const model  *m = engine_model(e);
    engine_memory mem = engine_memory_of(e);
    json_t       *types = json_object(), *o = c->out;
    i64           file_type = file_i64_or(m->file, "general.file_type", -1);
    info_types(m, types);
    licence = licence_of(m);
    json_set(o, "name", meta_text(m, "general.name"));
    json_set(o, "architecture", json_string(m->arch->name));
    json_set(o, "parameters", json_integer(m->parameters));
    json_set(o, "file_bytes", json_integer((json_int_t)m->file_bytes));
    json_set(o, "file_type", json_string(file_type_name(file_type)));
    json_set(o, "context_length", json_integer(m->h.n_ctx));
    json_set(o, "vocab_size", json_integer(m->h.n_vocab));
    json_set(o, "layers", json_integer(m->h.n_layer));
    json_set(o, "width", json_integer(m->h.width));
    json_set(o, "heads", json_integer(m->h.n_head));
    json_set(o, "kv_heads", json_integer(m->h.n_kv_head));
    json_set(o, "tokenizer", meta_text(m, "tokenizer.ggml.model"));
    json_set(o, "pre_tokenizer", meta_text(m, "tokenizer.ggml.pre"));
    json_set(o, "chat_template", m->chat ? json_true() : m->chat_error ? json_cstr(m->chat_error) : json_false());
    json_set(o, "licence", licence ? json_cstr(licence) : meta_text(m, "general.license"));
    json_set(o, "tensor_types", types);
    json_set(o, "memory", json_pack("{s:I,s:I,s:I}", "weights", (json_int_t)mem.weights, "kv_per_token", (json_int_t)mem.kv_per_token, "scratch", (json_int_t)mem.scratch));
    if (!c->json) info_print(c);
    engine_close(e);
    return OK;
}

static err embed_texts(cli *c, engine *e, str *texts, usize n, embed_role role, window_mode window)
{
    i64    d = engine_dim(e);
    float *v = mem_array(float, (usize)d * n + 1);
    if (!v) return err_new(ERR_NOMEM, "out of memory for %zu vectors", n);
    err     bad = engine_embed(e, texts, n, role, window, v, NULL, NULL);
    json_t *rows = json_array();
    for (usize i = 0; i < n && !bad.code; i++) {
        json_t *row = json_array();
        for (i64 k = 0; k < d; k++) {
            json_push(row, json_f((double)v[(i64)i * d + k]));
            if (!c->json) printf(k ? " %.6f" : "%.6f", (double)v[(i64)i * d + k]);
        }
        if (!c->json) printf("\n");
        json_push(rows, row);
    }
    json_set(c->out, "model", json_cstr(engine_model(e)->path));
    json_set(c->out, "dim", json_integer(d));
    json_set(c->out, "vectors", rows);
    mem_free(v);
    return bad;
}

static err lines_of(buf *b, str **out, usize *n)
{
    usize cap = 0;
    str   all = buf_view(b);
    for (usize from = 0; from < all.n;) {
        i64 nl = str_find(all, S("\n"), from);
        usize end = nl < 0 ? all.n : (usize)nl;
        str   line = str_trim((str){all.p + from, end - from});
        if (line.n && !VEC_PUSH(*out, *n, cap, line)) return err_new(ERR_NOMEM, "out of memory");
        from = end + 1;
    }
    return OK;
}

err cmd_embed(cli *c, int argc, char **argv)
{
    list        texts = {0};
    const char *as = "", *window = "error";
    option      opt[] = {{"--text", "T...", "texts, one vector each", OPT_LIST, &texts, NULL, true}, {"--as", "query|passage", "adds what the model wants in front", OPT_STR, &as},
                         {"--window", "mean|first", "texts longer than the model's window (an error)", OPT_STR, &window}};
    engine     *e = NULL;
    buf         b = {0};
    str        *s = NULL;
    usize       n = 0, cap = 0;
    err         bad = OK;
    PARSE(c, opt, 1, 2);
    embed_role  role = !strcmp(as, "query") ? EMBED_QUERY : !strcmp(as, "passage") ? EMBED_PASSAGE : EMBED_PLAIN;
    window_mode mode = !strcmp(window, "mean") ? WINDOW_MEAN : !strcmp(window, "first") ? WINDOW_FIRST : WINDOW_ERROR;
    if (*as && role == EMBED_PLAIN) return err_new(ERR_INPUT, "--as %s: expected query or passage", as);
    if ((c->arg.n == 2) == (texts.n > 0)) return err_new(ERR_INPUT, "expected --text T, or a file with one text a line");
    for (usize i = 0; i < texts.n; i++)
        if (!VEC_PUSH(s, n, cap, str_of(texts.v[i]))) bad = err_new(ERR_NOMEM, "out of memory");
    if (!texts.n) bad = cli_file(c->arg.v[1], &b);
    if (!bad.code && !texts.n) bad = lines_of(&b, &s, &n);
    if (!bad.code) bad = cli_engine(c, &e, c->arg.v[0], 0);
    if (!bad.code) bad = embed_texts(c, e, s, n, role, mode);
    engine_close(e);
    mem_free(s);
    mem_free(texts.v);
    buf_free(&b);
    return bad;
}
