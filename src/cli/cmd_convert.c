/* cli/cmd_convert.c - maru convert: a Hugging Face folder into a GGUF, a GGUF into a folder. */
#include "cli/cli.h"

err cmd_convert(cli *c, int argc, char **argv)
{
    char *path = NULL;
    convert_report r;
    TRY(cli_parse(c, argc, argv, NULL, 0, 2, 2));
    TRY(model_resolve(&path, c->arg.v[0]));
    const char *out = c->arg.v[1];
    bool folder = !file_is_dir(path);
    err bad = model_convert(path, out, &r);
    mem_free(path);
    if (bad.code) return bad;
    json_set(c->out, "path", json_cstr(out));
    json_set(c->out, "form", json_string(folder ? "folder" : "gguf"));
    json_set(c->out, "tensors", json_integer(r.tensors));
    json_set(c->out, "widened", json_integer(r.widened));
    if (r.widened) log_line(LOG_WARN, L("양자화된 텐서 %lld개를 f32로 풀었습니다", "%lld quantised tensors became f32"), (long long)r.widened);
    if (!c->json) printf(L("%s: 텐서 %lld개\n", "%s: %lld tensors\n"), out, (long long)r.tensors);
    return OK;
}
