/* quant/imatrix.c - importances as files: llama.cpp's older form (.dat: entries of name, calls, sums) and its newer one, a GGUF with
 * "<tensor>.in_sum2" and "<tensor>.counts". Both are read, the newer is written.
 *
 * A column that no token ever reached (an expert nobody asked for) would make its weights free to be anything: its importances
 * become ones, as if nothing were known. */
#include "quant/quant.h"
#include <math.h>

err imatrix_new(imatrix **out, const char *dataset)
{
    imatrix *m = *out = mem_zero(sizeof *m);
    if (m) m->by_name = map_new(), m->dataset = mem_strdup(dataset ? dataset : "");
    if (m && m->by_name && m->dataset) return OK;
    imatrix_free(m);
    *out = NULL;
    return err_new(ERR_NOMEM, "out of memory for importances");
}

void imatrix_free(imatrix *m)
{
    if (!m) return;
    for (usize i = 0; i < m->n; i++) mem_free(m->row[i].name), mem_free(m->row[i].mean);
    mem_free(m->row);
    map_free(m->by_name);
    mem_free(m->dataset);
    mem_free(m);
}

const imatrix_row *imatrix_find(const imatrix *m, str name)
{
    u64 at;
    return map_get(m->by_name, name, &at) ? &m->row[at] : NULL;
}

err imatrix_add(imatrix *m, const char *name, i64 n, const float *mean, double count)
{
    imatrix_row r = {.name = mem_strdup(name), .n = n, .mean = mem_array(float, n), .count = count};
    if (map_get(m->by_name, str_of(name), &(u64){0})) {
        mem_free(r.name), mem_free(r.mean);
        return err_new(ERR_FORMAT, "importances of '%.200s' come twice", name);
    }
    if (r.name && r.mean) memcpy(r.mean, mean, sizeof *mean * (usize)n);
    if (r.name && r.mean && map_put(m->by_name, str_of(name), m->n) && VEC_PUSH(m->row, m->n, m->cap, r)) return OK;
    mem_free(r.name), mem_free(r.mean);
    return err_new(ERR_NOMEM, "out of memory for importances");
}

/* sums over calls or tokens into means; what cannot be one is said where it stands */
static err add_sums(imatrix *m, str name, i64 n, i64 n_parts, const float *sum, const float *counts, double scale, const char *file)
{
    char shown[256];
    float *mean = mem_array(float, n);
    i64 each = n / n_parts;
    double most = 0;
    err bad = OK;
    snprintf(shown, sizeof shown, "%.*s", (int)(name.n < 255 ? name.n : 255), name.p);
    if (!mean) return err_new(ERR_NOMEM, "out of memory for importances");
    if (name.n > 255 || !name.n || memchr(name.p, 0, name.n)) bad = err_new(ERR_FORMAT, "%s: an entry's name of %zu bytes, expected 1 to 255", file, name.n);
    for (i64 p = 0; p < n_parts && !bad.code; p++) {
        double count = counts ? (double)counts[p] : scale;
        if (!isfinite(count) || count < 0) bad = err_new(ERR_FORMAT, "%s: '%s' counts %g tokens", file, shown, count);
        most = fmax(most, count);
        for (i64 i = 0; i < each && !bad.code; i++) {
            float v = sum[p * each + i];
            if (!isfinite(v) || v < 0) bad = err_new(ERR_FORMAT, "%s: '%s', column %lld: %g, expected a sum of squares", file, shown, (long long)i, (double)v);
            mean[p * each + i] = count > 0 ? (float)((double)v / count) : 1;
        }
    }
    if (!bad.code) bad = imatrix_add(m, shown, n, mean, most);
    mem_free(mean);
    return bad;
}

/* ---- the older form ---------------------------------------------------------------------------------------------------------------- */
typedef struct {
    const u8 *p;
    usize n, at;
    const char *name;
} bytes;

static err take(bytes *b, void *to, usize n, const char *what)
{
    if (n > b->n - b->at) return err_new(ERR_FORMAT, "%s: byte %zu: the file ends inside %s", b->name, b->at, what);
    memcpy(to, b->p + b->at, n);
    b->at += n;
    return OK;
}

static err take_entry(bytes *b, imatrix *m)
{
    i32 len, calls, n;
    TRY(take(b, &len, 4, "the length of a name"));
    if (len < 1 || (usize)len > b->n - b->at) return err_new(ERR_FORMAT, "%s: byte %zu: a name of %d bytes", b->name, b->at - 4, len);
    str name = {(const char *)b->p + b->at, (usize)len};
    b->at += (usize)len;
    TRY(take(b, &calls, 4, "a number of calls"));
    TRY(take(b, &n, 4, "a number of columns"));
    if (n < 1 || (usize)n > (b->n - b->at) / 4) return err_new(ERR_FORMAT, "%s: byte %zu: %d columns declared, %zu bytes follow", b->name, b->at - 4, n, b->n - b->at);
    float *v = mem_array(float, n);
    if (!v) return err_new(ERR_NOMEM, "out of memory for importances");
    memcpy(v, b->p + b->at, 4 * (usize)n);
    b->at += 4 * (usize)n;
    err bad = add_sums(m, name, n, 1, v, NULL, calls > 0 ? (double)calls : 1, b->name);
    mem_free(v);
    return bad;
}

static err parse_old(imatrix *m, const u8 *p, usize n, const char *name)
{
    bytes b = {p, n, 0, name};
    i32 entries, last;
    TRY(take(&b, &entries, 4, "the number of entries"));
    if (entries < 1 || (usize)entries > n / 13) return err_new(ERR_FORMAT, "%s: neither a GGUF nor an importance matrix (%d entries in %zu bytes)", name, entries, n);
    for (i32 i = 0; i < entries; i++) TRY(take_entry(&b, m));
    if (b.n - b.at < 4) return OK; /* the oldest ones end here */
    TRY(take(&b, &last, 4, "the last chunk"));
    m->chunks = last > 0 ? last : 0;
    return OK;
}

/* ---- the newer form ---------------------------------------------------------------------------------------------------------------- */
static err add_tensor(imatrix *m, const model_file *f, const file_tensor *t, str name, const char *file)
{
    char key[512];
    snprintf(key, sizeof key, "%.*s.counts", (int)name.n, name.p);
    const file_tensor *c = file_tensor_find(f, str_of(key));
    i64 n = t->n[0] * t->n[1] * t->n[2] * t->n[3], parts = c ? c->n[0] * c->n[1] * c->n[2] * c->n[3] : 0;
    if (!c) return err_new(ERR_FORMAT, "%s: '%s' is missing", file, key);
    if (t->type != F32 || c->type != F32 || !t->data || !c->data) return err_new(ERR_FORMAT, "%s: '%.*s' holds %s, expected f32 sums and counts", file, (int)name.n, name.p, dtype_table[t->type < DTYPE_COUNT ? t->type : F32].name);
    if (parts < 1 || n % parts) return err_new(ERR_FORMAT, "%s: '%s' has %lld numbers for %lld sums", file, key, (long long)parts, (long long)n);
    return add_sums(m, name, n, parts, (const float *)(const void *)t->data, (const float *)(const void *)c->data, 1, file);
}

static err parse_gguf(imatrix *m, const u8 *p, usize n, const char *name)
{
    model_file *f;
    TRY(gguf_parse(&f, p, n, name));
    err bad = OK;
    str end = S(".in_sum2");
    for (usize i = 0; i < file_n_tensors(f) && !bad.code; i++) {
        const file_tensor *t = file_tensor_at(f, i);
        if (!str_ends(t->name, end)) continue;
        str of = {t->name.p, t->name.n - end.n};
        bad = of.n < 1 || of.n > 255 ? err_new(ERR_FORMAT, "%s: a tensor's name of %zu bytes", name, of.n) : add_tensor(m, f, t, of, name);
    }
    m->chunks = i64_max(0, file_i64_or(f, "imatrix.chunk_count", 0));
    m->chunk_size = i64_max(0, file_i64_or(f, "imatrix.chunk_size", 0));
    if (!bad.code && !m->n) bad = err_new(ERR_FORMAT, "%s: a GGUF without importances (no tensor is named *.in_sum2)", name);
    model_file_close(f);
    return bad;
}

err imatrix_parse(imatrix **out, const u8 *p, usize n, const char *name)
{
    TRY(imatrix_new(out, name));
    err bad = n >= 4 && !memcmp(p, "GGUF", 4) ? parse_gguf(*out, p, n, name) : parse_old(*out, p, n, name);
    if (!bad.code) return OK;
    imatrix_free(*out);
    *out = NULL;
    return bad;
}

err imatrix_load(imatrix **out, const char *path)
{
    file_map mapped;
    *out = NULL;
    TRY(file_map_open(&mapped, path));
    err bad = imatrix_parse(out, mapped.p, mapped.n, path);
    file_map_close(&mapped);
    return bad;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------------------- */
static err put_all(const imatrix *m, gguf_writer *w)
{
    char name[300];
    str dataset = str_of(m->dataset);
    TRY(gguf_put_str(w, "general.type", S("imatrix")));
    TRY(gguf_put_array(w, "imatrix.datasets", META_STR, 1, &dataset));
    TRY(gguf_put_u32(w, "imatrix.chunk_count", (u32)m->chunks));
    TRY(gguf_put_u32(w, "imatrix.chunk_size", (u32)m->chunk_size));
    for (usize i = 0; i < m->n; i++) {
        snprintf(name, sizeof name, "%s.in_sum2", m->row[i].name);
        TRY(gguf_put_tensor(w, str_of(name), F32, 2, (i64[]){m->row[i].n, 1}));
        snprintf(name, sizeof name, "%s.counts", m->row[i].name);
        TRY(gguf_put_tensor(w, str_of(name), F32, 2, (i64[]){1, 1}));
    }
    for (usize i = 0; i < m->n; i++) {
        const imatrix_row *r = &m->row[i];
        float *sum = mem_array(float, r->n), count = (float)r->count;
        if (!sum) return err_new(ERR_NOMEM, "out of memory for importances");
        for (i64 k = 0; k < r->n; k++) sum[k] = (float)((double)r->mean[k] * r->count);
        err bad = gguf_put_data(w, sum, sizeof *sum * (usize)r->n);
        mem_free(sum);
        TRY(bad);
        TRY(gguf_put_data(w, &count, sizeof count));
    }
    return OK;
}

err imatrix_save(const imatrix *m, const char *path)
{
    gguf_writer *w;
    TRY(gguf_create(&w, path));
    err bad = put_all(m, w);
    if (!bad.code) return gguf_commit(w);
    gguf_drop(w);
    return bad;
}
