/* quant/run.c - the file: what may be done with it, its head, and its tensors one after another.
 *
 * Nothing of the new file has a name before it is whole (gguf_commit); pages of the input that were read are given back, so that
 * memory stays at a few buffers. Refusals come before the first byte is written. */
#include "quant/inside.h"
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- input ---------------------------------------------------------------------------------------------------------------------- */
/* A folder becomes a GGUF first, beside the new file, which loses its name as soon as it is open. */
static err convert(quant_source *s, const char *path, const char *beside)
{
    convert_report r;
    buf at = {0};
    const char *slash = strrchr(beside, '/');
    buf_fmt(&at, "%.*s.maru-converted-%d.gguf", slash ? (int)(slash + 1 - beside) : 0, beside, (int)getpid());
    err bad = buf_error(&at);
    if (!bad.code) bad = model_convert(path, buf_cstr(&at), &r);
    if (!bad.code) bad = file_map_open(&s->mapped, buf_cstr(&at));
    if (at.n) unlink(buf_cstr(&at));
    buf_free(&at);
    return bad;
}

err quant_source_open(quant_source *s, const char *path, const char *beside)
{
    *s = (quant_source){.mapped = {.fd = -1}};
    TRY(file_is_dir(path) ? convert(s, path, beside) : file_map_open(&s->mapped, path));
    err bad = gguf_parse(&s->file, s->mapped.p, s->mapped.n, path);
    if (bad.code) quant_source_close(s);
    return bad;
}

void quant_source_close(quant_source *s)
{
    model_file_close(s->file);
    if (s->mapped.p || s->mapped.fd >= 0) file_map_close(&s->mapped);
    *s = (quant_source){.mapped = {.fd = -1}};
}

void quant_source_forget(const quant_source *s, const void *at, usize n)
{
    const u8 *p = at;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)p + page - 1) & ~(page - 1), to = ((uintptr_t)p + n) & ~(page - 1);
    bool inside = s->mapped.p && p >= s->mapped.p && p + n <= s->mapped.p + s->mapped.n;
    if (inside && from < to) madvise((void *)from, to - from, MADV_DONTNEED); /* a map of a file: read again if need be */
}

/* ---- what is refused ---------------------------------------------------------------------------------------------------------- */
static err same_file(const char *in, const char *out)
{
    struct stat a, b;
    if (stat(in, &a) || stat(out, &b)) return OK;
    if (S_ISDIR(b.st_mode)) return err_new(ERR_INPUT, "%s is a folder, expected a name for a GGUF", out);
    if (a.st_dev == b.st_dev && a.st_ino == b.st_ino) return err_new(ERR_INPUT, "%s is the input: the new file needs another name", out);
    return OK;
}

static err split_file(const model_file *f, const char *in)
{
    i64 n = file_i64_or(f, "split.count", 1);
    return n > 1 ? err_new(ERR_UNSUPPORTED, "%s is one of %lld parts of a model: join them first", in, (long long)n) : OK;
}

static err check(const model_file *f, const char *in, const quant_opts *o, const dtype *to, quant_report *r)
{
    usize quantised = 0;
    const file_tensor *first = NULL;
    for (usize i = 0; i < file_n_tensors(f); i++) {
        const file_tensor *t = file_tensor_at(f, i);
        if (t->type >= DTYPE_COUNT || !t->data) return err_new(ERR_UNSUPPORTED, "%s: tensor '%.*s' has no numbers that can be read", in, (int)(t->name.n < 200 ? t->name.n : 200), t->name.p);
        if (t->type == to[i] || !dtype_table[t->type].quantised) continue;
        if (!quantised++) first = t;
    }
    if (!file_n_tensors(f)) return err_new(ERR_FORMAT, "%s has no tensors", in);
    r->requantised = quantised > 0;
    if (quantised && !o->requantise)
        return err_new(ERR_INPUT, "%s is quantised already (%zu tensors, '%.*s' is %s): errors would come on top of errors. Take the original, or --requantize", in, quantised,
                       (int)(first->name.n < 200 ? first->name.n : 200), first->name.p, dtype_table[first->type].name);
    return OK;
}

/* an importance row of another length is another model's */
static err importance_of(const quant_opts *o, const file_tensor *t, const imatrix_row **row)
{
    *row = o->importance ? imatrix_find(o->importance, t->name) : NULL;
    if (!*row) return OK;
    if ((*row)->n == t->n[0] * t->n[2]) return OK;
    if (str_eq(t->name, S("token_embd.weight"))) return *row = NULL, OK;
    return err_new(ERR_FORMAT, "importances of '%.*s' are %lld numbers, its columns %lld: they were collected from another model", (int)(t->name.n < 200 ? t->name.n : 200), t->name.p,
                   (long long)(*row)->n, (long long)(t->n[0] * t->n[2]));
}

/* ---- head ------------------------------------------------------------------------------------------------------------------------- */
static err put_head(gguf_writer *w, const model_file *f, const quant_opts *o, const dtype *to)
{
    bool typed = false, versioned = false;
    for (usize i = 0; i < file_n_meta(f); i++) {
        const meta *m = file_meta_at(f, i);
        if (str_starts(m->key, S("split.")) || str_starts(m->key, S("quantize.imatrix."))) continue;
        if (str_eq(m->key, S("general.file_type"))) {
            if (!typed) TRY(gguf_put_u32(w, "general.file_type", o->mix->file_type));
            typed = true;
        } else if (str_eq(m->key, S("general.quantization_version"))) {
            TRY(gguf_put_u32(w, "general.quantization_version", 2));
            versioned = true;
        } else {
            TRY(gguf_put_meta(w, m));
        }
    }
    if (!versioned) TRY(gguf_put_u32(w, "general.quantization_version", 2));
    if (!typed) TRY(gguf_put_u32(w, "general.file_type", o->mix->file_type));
    if (o->importance && !o->blind) {
        TRY(gguf_put_u32(w, "quantize.imatrix.entries_count", (u32)o->importance->n));
        TRY(gguf_put_u32(w, "quantize.imatrix.chunks_count", (u32)o->importance->chunks));
    }
    for (usize i = 0; i < file_n_tensors(f); i++) {
        const file_tensor *t = file_tensor_at(f, i);
        TRY(gguf_put_tensor(w, t->name, to[i], t->n_dims, t->n));
    }
    return OK;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------------------- */
typedef struct {
    const quant_source *src;
    gguf_writer *w;
    const quant_opts *o;
    i64 done;
} sink;

static err put(void *ctx, const quant_rows *r)
{
    sink *s = ctx;
    if (s->o->cancel && atomic_load(s->o->cancel)) return err_new(ERR_CANCELLED, "stopped: nothing was written");
    TRY(gguf_put_data(s->w, r->bytes, r->n));
    quant_source_forget(s->src, r->from, r->n_from);
    s->done += r->values;
    if (s->o->progress) progress_step(s->o->progress, s->done);
    return OK;
}

static err one_tensor(quant_coder *c, const quant_opts *o, const file_tensor *t, dtype to, quant_tensor *out, weight_loss *sums)
{
    const imatrix_row *row = NULL;
    i64 count = t->n[0] * t->n[1] * t->n[2] * t->n[3];
    out->name = mem_strndup(t->name.p, t->name.n);
    if (!out->name) return err_new(ERR_NOMEM, "out of memory for a name");
    out->from = t->type, out->to = to, out->n = count;
    out->before = t->bytes, out->after = dtype_row_bytes(to, t->n[0]) * (usize)(count / t->n[0]);
    if (to != t->type) TRY(importance_of(o, t, &row));
    out->weighed = row != NULL;
    quant_job j = {.t = t, .to = to, .copy = to == t->type, .better = o->better, .blind = o->blind, .importance = row ? row->mean : NULL, .expert_rows = t->n[1], .sums = sums};
    return quant_coder_add(c, &j);
}

static double root_of(double error, double power) { return power > 0 ? sqrt(error / power) : 0; }

static err all_tensors(const quant_source *src, gguf_writer *w, const quant_opts *o, const dtype *to, quant_report *r)
{
    quant_coder *c = NULL;
    sink s = {.src = src, .w = w, .o = o};
    weight_loss *sums = mem_array(weight_loss, r->n + 1);
    err bad = sums ? put_head(w, src->file, o, to) : err_new(ERR_NOMEM, "out of memory for %zu tensors", r->n);
    if (!bad.code) bad = quant_coder_new(&c, o->threads, put, &s);
    for (usize i = 0; i < r->n && !bad.code; i++) bad = one_tensor(c, o, file_tensor_at(src->file, i), to[i], &r->t[i], &sums[i]);
    if (!bad.code) bad = quant_coder_finish(c);
    for (usize i = 0; i < r->n && !bad.code; i++) {
        quant_tensor *t = &r->t[i];
        t->rmse = root_of(sums[i].error, sums[i].power);
        t->weighted = t->weighed ? root_of(sums[i].weighted_error, sums[i].weighted_power) : t->rmse;
    }
    quant_coder_free(c);
    mem_free(sums);
    return bad;
}

static err write_file(const quant_source *src, const char *out, const quant_opts *o, const dtype *to, quant_report *r)
{
    gguf_writer *w;
    TRY(gguf_create(&w, out));
    err bad = all_tensors(src, w, o, to, r);
    if (!bad.code) return gguf_commit(w);
    gguf_drop(w);
    return bad;
}

static err bytes_of(const char *path, usize *sum)
{
    i64 n;
    TRY(file_size(path, &n));
    *sum += (usize)n;
    return OK;
}

static void totals(const model_file *f, const quant_opts *o, const dtype *to, quant_report *r)
{
    for (usize i = 0; i < r->n; i++) {
        const file_tensor *t = file_tensor_at(f, i);
        r->values += t->n[0] * t->n[1] * t->n[2] * t->n[3];
        dtype asked = o->mix->type;
        r->fallbacks += t->type != to[i] && dtype_table[asked].block > 1 && t->n[0] % dtype_table[asked].block != 0;
    }
}

err quant_run(const char *in, const char *out, const quant_opts *o, quant_report *r)
{
    quant_source src;
    dtype *to = NULL;
    double start = clock_s();
    *r = (quant_report){0};
    TRY(same_file(in, out));
    TRY(quant_source_open(&src, in, out));
    err bad = split_file(src.file, in);
    r->n = file_n_tensors(src.file);
    if (!bad.code && !(to = mem_array(dtype, r->n + 1))) bad = err_new(ERR_NOMEM, "out of memory for %zu tensors", r->n);
    if (!bad.code && !(r->t = mem_array(quant_tensor, r->n + 1))) bad = err_new(ERR_NOMEM, "out of memory for %zu tensors", r->n);
    if (!bad.code) bad = quant_types(src.file, o->mix, o->importance && !o->blind, o->pure, to);
    if (!bad.code) bad = check(src.file, in, o, to, r);
    if (!bad.code) totals(src.file, o, to, r), r->before = src.mapped.n;
    if (!bad.code && o->progress) progress_start(o->progress, "quantize", r->values);
    if (!bad.code) bad = write_file(&src, out, o, to, r);
    if (!bad.code) bad = bytes_of(out, &r->after);
    if (o->progress && r->values) progress_end(o->progress);
    r->seconds = clock_s() - start;
    mem_free(to);
    quant_source_close(&src);
    return bad;
}

/* ---- reports ------------------------------------------------------------------------------------------------------------------------ */
void quant_report_free(quant_report *r)
{
    for (usize i = 0; r->t && i < r->n; i++) mem_free(r->t[i].name);
    mem_free(r->t);
    *r = (quant_report){0};
}

double quant_bits(const quant_report *r) { return r->values ? 8.0 * (double)r->after / (double)r->values : 0; }

double quant_error(const quant_report *r, bool weighted) /* tensors by their number of values: a mean of relative squares */
{
    double sum = 0, n = 0;
    for (usize i = 0; i < r->n; i++) {
        const quant_tensor *t = &r->t[i];
        double e = weighted ? t->weighted : t->rmse;
        if (t->from == t->to) continue;
        sum += e * e * (double)t->n, n += (double)t->n;
    }
    return n > 0 ? sqrt(sum / n) : 0;
}

usize quant_worst(const quant_report *r, usize k, const quant_tensor **out)
{
    usize n = 0;
    for (usize i = 0; i < r->n; i++) {
        const quant_tensor *t = &r->t[i];
        usize at = n;
        if (t->from == t->to || !(t->weighted > 0)) continue;
        while (at > 0 && out[at - 1]->weighted < t->weighted) at--;
        if (at >= k) continue;
        if (n < k) n++;
        memmove(out + at + 1, out + at, (n - 1 - at) * sizeof *out);
        out[at] = t;
    }
    return n;
}
