/* Adapters of others: a configuration, a zero byte, and the tensors, read as a PEFT or MLX folder against a small model. What is
 * accepted must mix, and be read again as it was saved. */
#include "model/arch.h"
#include <stdlib.h>
#include <unistd.h>

int fuzz_one(const u8 *data, usize n);

enum { LAYERS = 2, WIDTH = 8, KV = 4, FF = 16, VOCAB = 10 };
static float nothing;
static char folder[200];

static void leave(void) { (void)!file_remove_tree(folder).code; }

static model *small_model(void)
{
    static layer_weights layers[LAYERS];
    static model m;
    if (m.arch) return &m;
    m.arch = arch_find(S("llama"));
    m.h = (hparams){.n_layer = LAYERS,
                    .width = WIDTH,
                    .n_head = 2,
                    .n_kv_head = 1,
                    .head_dim = KV,
                    .rope_dims = KV,
                    .n_ff = FF,
                    .n_vocab = VOCAB};
    m.layers = layers;
    m.embed = m.head = (model_weight){.data = &nothing, .k = WIDTH, .n = VOCAB, .name = "token_embd.weight"};
    for (int i = 0; i < LAYERS; i++) {
        layer_weights *w = &layers[i];
        struct {
            model_weight *w;
            const char *name;
            i64 k, n;
        } all[] = {{&w->q, "attn_q", WIDTH, WIDTH},        {&w->k, "attn_k", WIDTH, KV},
                   {&w->v, "attn_v", WIDTH, KV},           {&w->o, "attn_output", WIDTH, WIDTH},
                   {&w->attn_norm, "attn_norm", WIDTH, 1}, {&w->gate, "ffn_gate", WIDTH, FF},
                   {&w->up, "ffn_up", WIDTH, FF},          {&w->down, "ffn_down", FF, WIDTH}};
        for (usize k = 0; k < COUNT_OF(all); k++) {
            *all[k].w = (model_weight){.data = &nothing, .k = all[k].k, .n = all[k].n};
            snprintf(all[k].w->name, sizeof all[k].w->name, "blk.%d.%s.weight", i, all[k].name);
        }
    }
    return &m;
}

static bool put_file(const char *name, const u8 *p, usize n)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(p, 1, n, f) == n;
    return f && !fclose(f) && ok;
}

int fuzz_one(const u8 *data, usize n)
{
    const u8 *cut = n ? memchr(data, 0, n) : NULL;
    adapter_file *f, *g;
    adapter_set *set = NULL;
    char again[240];
    if (!cut) return 0;
    log_set(LOG_QUIET);
    if (!*folder) {
        snprintf(folder, sizeof folder, "/tmp/maru-fuzz-adapter-XXXXXX");
        if (!mkdtemp(folder)) return 0;
        atexit(leave);
    }
    usize head = (usize)(cut - data);
    if (!put_file("adapter_config.json", data, head) || !put_file("adapter_model.safetensors", cut + 1, n - head - 1) ||
        !put_file("adapters.safetensors", cut + 1, n - head - 1))
        return 0;
    if (adapter_load(&f, folder, small_model()).code) return 0;
    adapter_use use = {f, 1};
    err bad = adapter_set_new(&set, small_model(), &(adapter_mix){&use, 1}, 1);
    if (bad.code && bad.code != ERR_NOMEM) abort(); /* what loads can be used; memory may fail (-fail) */
    adapter_set_free(set);
    snprintf(again, sizeof again, "%s/again", folder);
    if (f->n_pairs + f->n_whole || f->n_prompt || f->n_prefix) {
        bad = adapter_save(f, again, small_model());
        if (!bad.code) bad = adapter_load(&g, again, small_model());
        if (bad.code == ERR_NOMEM) g = NULL;
        else if (bad.code || g->n_pairs != f->n_pairs || g->n_whole != f->n_whole || g->n_prefix != f->n_prefix ||
            g->n_prompt != f->n_prompt)
            abort();
        adapter_free(g);
        (void)!file_remove_tree(again).code;
    }
    adapter_free(f);
    return 0;
}
