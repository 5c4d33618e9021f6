/* tests/fuzz/fuzz_hf.h - a whole small Hugging Face folder of which a fuzzer replaces one file. Removed at the end of the program. */
#ifndef MARU_FUZZ_HF_H
#define MARU_FUZZ_HF_H
#include "model/model.h"
#include <stdlib.h>
#include <unistd.h>

static char hf_at[300], hf_folder[320];
static pid_t hf_owner;

static void hf_remove(void)
{
    if (getpid() == hf_owner) (void)file_remove_tree(hf_at);
}

/* 257 tokens, 16 wide; vectors and matrices as every architecture's names have them are not needed: the llama's will do */
static bool hf_make(void)
{
    const char *tmp = getenv("TMPDIR");
    char vocab[360], gguf[360];
    trained_vocab v;
    convert_report r;
    str end = S("<|endoftext|>");
    i64 n;
    if (hf_at[0]) return true;
    log_set(LOG_QUIET);
    snprintf(hf_at, sizeof hf_at, "%s/maru-fuzz-hf-XXXXXX", tmp && strlen(tmp) < 200 ? tmp : "/tmp");
    if (!mkdtemp(hf_at)) return false;
    hf_owner = getpid();
    atexit(hf_remove);
    snprintf(hf_folder, sizeof hf_folder, "%s/model", hf_at);
    snprintf(vocab, sizeof vocab, "%s/vocab.gguf", hf_at);
    snprintf(gguf, sizeof gguf, "%s/model.gguf", hf_at);
    if (bpe_train(S("the the"), "gpt-2", &end, 1, 258, &v).code) return false;
    bool good = !vocab_save(vocab, &v, "gpt-2", 1, 0).code && !model_new(gguf, "llama", "d=16,layers=1,heads=2,ff=32,ctx=32", vocab, 1, &n).code &&
                !model_convert(gguf, hf_folder, &r).code;
    trained_vocab_free(&v);
    return good;
}

static bool hf_put(const char *name, const u8 *data, usize n)
{
    char path[360];
    snprintf(path, sizeof path, "%s/%s", hf_folder, name);
    FILE *f = fopen(path, "wb"); /* not file_replace: ten thousand fsyncs are slow */
    bool good = f && fwrite(data, 1, n, f) == n;
    return f && fclose(f) == 0 && good;
}
#endif
