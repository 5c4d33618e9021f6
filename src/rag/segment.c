/* rag/segment.c - index files: written front to back through an atomic file, read from a map, tested block by block. */
#include "rag/segment.h"

/* ---- writing ------------------------------------------------------------------------------------------------------ */
struct segment_writer {
    file_writer *file;
    contents has;
    u64 at;
    int part;
    u64 *sum; /* [has.n_blocks] */
    usize n_sum, cap_sum;
    usize n_block;
    u8 block[SEGMENT_BLOCK];
};

static err end_block(segment_writer *w)
{
    u64 sum = hash64(w->block, w->n_block, w->n_sum);
    if (!VEC_PUSH(w->sum, w->n_sum, w->cap_sum, sum)) return err_new(ERR_NOMEM, "out of memory");
    err bad = file_writer_put(w->file, w->block, w->n_block);
    w->n_block = 0;
    return bad;
}

err segment_put(segment_writer *w, const void *p, usize n)
{
    const u8 *from = p;
    w->at += n;
    if (w->part >= 0) w->has.part[w->part].n += n;
    while (n) {
        usize k = SEGMENT_BLOCK - w->n_block < n ? SEGMENT_BLOCK - w->n_block : n;
        memcpy(w->block + w->n_block, from, k);
        from += k, n -= k, w->n_block += k;
        if (w->n_block == SEGMENT_BLOCK) TRY(end_block(w));
    }
    return OK;
}

err segment_begin(segment_writer *w, int part)
{
    static const u8 zero[64];
    w->part = -1;
    TRY(segment_put(w, zero, -w->at % 64));
    w->part = part;
    w->has.part[part] = (section){w->at, 0};
    return OK;
}

err segment_create(segment_writer **out, const char *path, const char magic[8])
{
    *out = NULL;
    segment_writer *w = mem_zero(sizeof *w);
    if (!w) return err_new(ERR_NOMEM, "out of memory");
    w->part = -1;
    memcpy(&w->has.magic, magic, 8);
    err bad = file_writer_open(&w->file, path);
    if (!bad.code) bad = segment_put(w, magic, 8);
    if (bad.code)
        segment_drop(w);
    else
        *out = w;
    return bad;
}

void segment_drop(segment_writer *w)
{
    if (!w) return;
    if (w->file) file_writer_drop(w->file);
    mem_free(w->sum);
    mem_free(w);
}

err segment_commit(segment_writer *w, u64 version, u64 generation, const u64 count[SEGMENT_COUNTS])
{
    err bad = OK;
    file_writer *file = w->file;
    static const u8 zero[64];
    w->part = -1;
    TRY_TO(done, segment_put(w, zero, -w->at % 64));
    if (w->n_block) TRY_TO(done, end_block(w));
    w->has.version = version, w->has.generation = generation;
    memcpy(w->has.count, count, sizeof w->has.count);
    w->has.n_blocks = w->n_sum;
    w->has.sums_hash = hash64(w->sum, w->n_sum * sizeof *w->sum, 0);
    w->has.hash = hash64(&w->has, offsetof(contents, hash), 0);
    TRY_TO(done, file_writer_put(file, w->sum, w->n_sum * sizeof *w->sum));
    TRY_TO(done, file_writer_put(file, &w->has, sizeof w->has));
    w->file = NULL;
    bad = file_writer_commit(file);
done:
    segment_drop(w);
    return bad;
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */
err segment_damaged(const segment *s, const char *what)
{
    return err_new(ERR_FORMAT, "%s: %s; the index has to be rebuilt", s->path ? s->path : "index", what);
}

/* the table of contents, and that everything it names lies in the file */
static err read_contents(segment *s, const char magic[8], u64 version)
{
    contents *c = &s->has;
    usize n = s->map.n;
    if (n < 8 || memcmp(s->map.p, magic, 8)) return segment_damaged(s, "this is not an index of the kind expected here");
    if (n < sizeof *c || n % 8) return segment_damaged(s, "cut short");
    memcpy(c, s->map.p + n - sizeof *c, sizeof *c);
    if (memcmp(&c->magic, magic, 8) || c->hash != hash64(c, offsetof(contents, hash), 0))
        return segment_damaged(s, "its end is damaged or missing");
    if (c->version != version)
        return err_new(ERR_FORMAT, "%s: format %llu, expected %llu; the index has to be rebuilt", s->path,
                       (unsigned long long)c->version, (unsigned long long)version);
    u64 rest = n - sizeof *c;
    if (c->n_blocks > rest / 8) return segment_damaged(s, "more checksums than bytes");
    u64 body = rest - c->n_blocks * 8;
    if (c->n_blocks != (body + SEGMENT_BLOCK - 1) / SEGMENT_BLOCK)
        return segment_damaged(s, "its size does not fit its checksums");
    s->sums = (const u64 *)(const void *)(s->map.p + body);
    if (hash64(s->sums, c->n_blocks * 8, 0) != c->sums_hash) return segment_damaged(s, "its checksums are damaged");
    for (int i = 0; i < SEGMENT_SECTIONS; i++)
        if (c->part[i].at % 64 || c->part[i].at > body || c->part[i].n > body - c->part[i].at)
            return segment_damaged(s, "a section lies outside the file");
    return OK;
}

err segment_open(segment *s, const char *path, const char magic[8], u64 version)
{
    *s = (segment){0};
    err bad = file_map_open(&s->map, path);
    if (bad.code) return bad;
    s->path = mem_strdup(path);
    bad = s->path ? read_contents(s, magic, version) : err_new(ERR_NOMEM, "out of memory");
    if (!bad.code) {
        s->tested = mem_zero(s->has.n_blocks);
        if (!s->tested) bad = err_new(ERR_NOMEM, "out of memory");
    }
    if (bad.code) segment_close(s);
    return bad;
}

void segment_close(segment *s)
{
    if (s->path) file_map_close(&s->map);
    mem_free(s->tested);
    mem_free(s->path);
    *s = (segment){0};
}

bool segment_good(segment *s, u64 at, u64 n)
{
    u64 body = (u64)((const u8 *)s->sums - s->map.p);
    if (at > body || n > body - at) return false;
    if (!n) return true;
    for (u64 b = at / SEGMENT_BLOCK; b <= (at + n - 1) / SEGMENT_BLOCK; b++) {
        if (s->tested[b]) continue;
        u64 from = b * SEGMENT_BLOCK, len = body - from < SEGMENT_BLOCK ? body - from : SEGMENT_BLOCK;
        if (hash64(s->map.p + from, len, b) != s->sums[b]) return false;
        s->tested[b] = 1;
    }
    return true;
}

const void *segment_part(const segment *s, int part) { return s->map.p + s->has.part[part].at; }

err segment_array(segment *s, int part, u64 items, usize size)
{
    u64 bytes;
    if (__builtin_mul_overflow(items, (u64)size, &bytes) || s->has.part[part].n != bytes)
        return segment_damaged(s, "a section has another size than its count says");
    return OK;
}
