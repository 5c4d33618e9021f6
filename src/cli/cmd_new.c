/* cli/cmd_new.c - maru new: an untrained model; maru tokenizer train: a vocabulary for it. */
#include "cli/cli.h"

err cmd_new(cli *c, int argc, char **argv)
{
    const char *arch = NULL, *form = NULL, *out = NULL, *vocab = NULL;
    i64 parameters = 0;
    option opt[] = {{"--arch", "A", "llama qwen2 gemma3 gpt2 bert", OPT_STR, &arch},
                    {"--shape", "S", "d=256,layers=6,heads=8,kv=4,ff=768,ctx=512,vocab=FILE, or tiny small gpt2-124m smollm2-135m ..., with changes behind it", OPT_STR, &form},
                    {"--vocab", "FILE", "of `maru tokenizer train`, or a model whose vocabulary it takes", OPT_STR, &vocab},
                    {"-o --output", "OUT", "the GGUF (f32)", OPT_STR, &out}};
    PARSE(c, opt, 0, 0);
    if (!form) return cli_missing("--shape S");
    if (!out) return cli_missing("-o OUT");
    TRY(model_new(out, arch, form, vocab, (u64)c->seed, &parameters));
    json_set(c->out, "path", json_cstr(out));
    json_set(c->out, "parameters", json_integer(parameters));
    if (!c->json) printf(L("%s: 배우지 않은 모델, 매개변수 %lld개\n", "%s: untrained, %lld parameters\n"), out, (long long)parameters);
    return OK;
}

static err measure(const char *path, str text, usize *tokens)
{
    model *m = NULL;
    ids t = {0};
    TRY(model_open_tokenizer(&m, path));
    err bad = tokenize(m->tok, text, 0, &t);
    *tokens = t.n;
    ids_free(&t);
    model_close(m);
    return bad;
}

err cmd_tokenizer(cli *c, int argc, char **argv)
{
    const char *out = NULL, *kind = "bpe", *pre = "gpt-2";
    list special = {0};
    i64 size = 0;
    option opt[] = {{"-o --output", "OUT", "a GGUF that holds the vocabulary only", OPT_STR, &out},
                    {"--size", "N", "tokens, special ones and the 256 bytes included", OPT_I64, &size},
                    {"--kind", "bpe", "byte-level BPE", OPT_STR, &kind},
                    {"--pre", "NAME", "how words are cut: gpt-2, qwen2, llama3, smollm ... (gpt-2)", OPT_STR, &pre},
                    {"--special", "TOKEN", "control tokens, the first ends a text (<|endoftext|>)", OPT_LIST, &special}};
    buf b = {0};
    trained_vocab v = {0};
    usize tokens = 0;
    PARSE(c, opt, 2, 1000);
    if (strcmp(c->arg.v[0], "train") != 0) return err_new(ERR_INPUT, "expected: maru tokenizer train TEXT -o OUT --size N");
    if (!out) return cli_missing("-o OUT");
    if (!size) return cli_missing("--size N");
    if (strcmp(kind, "bpe") != 0) return err_new(ERR_UNSUPPORTED, "--kind %s: this build learns bpe (byte-level)", kind);
    double start = clock_s();
    str name[64];
    usize n = 0;
    if (special.n > COUNT_OF(name)) return err_new(ERR_INPUT, "at most %zu --special tokens", COUNT_OF(name));
    for (; n < special.n; n++) name[n] = str_of(special.v[n]);
    if (!n) name[n++] = S("<|endoftext|>");
    err bad = OK;
    for (usize i = 1; i < c->arg.n && !bad.code; i++) bad = cli_file(c->arg.v[i], &b);
    if (!bad.code) bad = bpe_train(buf_view(&b), pre, name, n, size, &v);
    if (!bad.code) bad = vocab_save(out, &v, pre, n, 0);
    if (!bad.code) bad = measure(out, buf_view(&b), &tokens);
    if (!bad.code) {
        double seconds = clock_s() - start;
        json_set(c->out, "path", json_cstr(out));
        json_set(c->out, "kind", json_string("bpe"));
        json_set(c->out, "tokens", json_integer(v.n_tokens));
        json_set(c->out, "merges", json_integer(v.n_merges));
        json_set(c->out, "bytes_per_token", json_f(tokens ? (double)b.n / (double)tokens : 0));
        json_set(c->out, "seconds", json_f(seconds));
        if (v.n_tokens < size) log_line(LOG_WARN, L("글이 짧아 토큰이 %lld개뿐입니다", "the text gives %lld tokens only: no other pair occurs twice"), (long long)v.n_tokens);
        if (!c->json) printf(L("%s: 토큰 %lld개, 토큰마다 %.2f바이트, %.1f초\n", "%s: %lld tokens, %.2f bytes a token, %.1f s\n"), out, (long long)v.n_tokens, tokens ? (double)b.n / (double)tokens : 0, seconds);
    }
    trained_vocab_free(&v);
    buf_free(&b);
    mem_free(special.v);
    return bad;
}
