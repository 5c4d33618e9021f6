/* tune/data.c - the room's core: opening, problems, and the one way a row becomes a sample.
 *
 * What teaches nothing or teaches wrong is found here, row by row and before any training: it is kept as a problem with file and
 * line, reading goes on so that a user sees all of them at once, and tune_data_ready refuses. Samples lie one behind the other in
 * two flat arrays, because a corpus has millions of tokens and packing only wants lengths. */
#include "tune/data_inside.h"

#define X(name, word) word,
const char *const tune_format_name[TUNE_FORMAT_COUNT] = {TUNE_FORMATS(X)};
#undef X

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for the training data"); }

/* ---- problems ---- */
static const char *file_name(const tune_data *d)
{
    const char *path = d->n_files ? d->file[d->n_files - 1].path : "data", *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "name:line: message", kept if there is room; index or -1 */
static i64 keep_problem(tune_data *d, const char *kind, bool refuse, u32 line, const char *fmt, va_list args) PRINTF(5, 0);
static i64 keep_problem(tune_data *d, const char *kind, bool refuse, u32 line, const char *fmt, va_list args)
{
    if (d->n_problems >= PROBLEMS_KEPT) return -1;
    char text[600];
    vsnprintf(text, sizeof text, fmt, args);
    text[utf8_complete((str){text, strlen(text)})] = 0; /* what was cut is not cut inside a character */
    buf b = {0};
    if (line)
        buf_fmt(&b, "%s:%u: %s", file_name(d), line, text);
    else
        buf_fmt(&b, "%s: %s", file_name(d), text);
    tune_problem p = {.kind = kind, .refuse = refuse, .file = (u32)(d->n_files ? d->n_files - 1 : 0), .line = line, .n = 1};
    p.message = buf_take(&b);
    if (p.message && VEC_PUSH(d->problem, d->n_problems, d->cap_problems, p)) return (i64)d->n_problems - 1;
    mem_free(p.message);
    d->reader->bad = no_memory();
    return -1;
}

void data_refuse(tune_data *d, const char *kind, u32 line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    d->n_refused++;
    keep_problem(d, kind, true, line, fmt, args);
    va_end(args);
}

void data_note(tune_data *d, const char *kind, u32 line, const char *fmt, ...)
{
    char key[64];
    u64 at;
    snprintf(key, sizeof key, "%zu %s", d->n_files, kind);
    if (map_get(d->reader->notes, str_of(key), &at)) {
        d->problem[at].n++;
        return;
    }
    va_list args;
    va_start(args, fmt);
    i64 kept = keep_problem(d, kind, false, line, fmt, args);
    va_end(args);
    if (kept >= 0 && !map_put(d->reader->notes, str_of(key), (u64)kept)) d->reader->bad = no_memory();
}

void data_note_special(tune_data *d, u32 line, str said)
{
    ids found = {0};
    err bad = OK;
    for (usize at = 0; at < said.n && bad.code != ERR_NOMEM; at++) {
        if (!d->reader->control_first[(u8)said.p[at]]) continue;
        found.n = 0;
        bad = tokenize(d->m->tok, (str){said.p + at, (usize)i64_min((i64)(said.n - at), (i64)d->reader->control_most)},
                       TOKENIZE_SPECIAL, &found);
        if (bad.code || !found.n || token_kind_of(d->m->tok, found.id[0]) != TOKEN_CONTROL) continue;
        str piece = token_piece(d->m->tok, found.id[0]);
        data_note(d, "special-text", line, "\"%.*s\" is written in the text: it stays text and is no control token",
                  (int)i64_min((i64)piece.n, 60), piece.p);
        break;
    }
    ids_free(&found);
    if (bad.code == ERR_NOMEM) d->reader->bad = bad;
}

/* ---- drafts ---- */
void draft_begin(data_draft *w)
{
    buf_reset(&w->text.text);
    w->text.n_span = 0;
    w->id.n = 0;
    mem_free(w->where);
    w->where = NULL;
    w->n_where = 0;
}

void draft_free(data_draft *w)
{
    chat_output_free(&w->text);
    mem_free(w->byte);
    mem_free(w->where);
    mem_free(w->learn);
    ids_free(&w->id);
    *w = (data_draft){0};
}

err draft_put(data_draft *w, str s, bool own, bool learned)
{
    if (!s.n) return OK;
    usize from = w->text.text.n;
    if (s.n + from > ROW_MAX) return err_new(ERR_UNSUPPORTED, "a row of %zu bytes, expected at most %d", s.n + from, ROW_MAX);
    buf_str(&w->text.text, s);
    TRY(buf_error(&w->text.text));
    chat_span span = {own ? -1 : 0, (u32)from, (u32)(from + s.n), own ? CHAT_TEMPLATE : CHAT_CONTENT};
    if (!VEC_PUSH(w->text.span, w->text.n_span, w->text.cap_span, span)) return no_memory();
    if (!vec_grow((void **)&w->byte, &w->cap_byte, from + s.n, 1)) return no_memory();
    memset(w->byte + from, learned, s.n);
    return OK;
}

err draft_push(data_draft *w, i32 id, bool learned)
{
    if (!ids_push(&w->id, id) || !vec_grow((void **)&w->learn, &w->cap_learn, w->id.n, 1)) return no_memory();
    w->learn[w->id.n - 1] = learned;
    return OK;
}

/* A token that begins in the template's white space and ends in an answer ("▁Hi" after "[/INST] ") is one that the model has
 * to write, so one learned byte is enough. An empty place (a space that only tokens know) goes with the byte behind it. */
err draft_ids(const tune_data *d, data_draft *w)
{
    usize n = w->text.text.n;
    w->id.n = 0;
    mem_free(w->where);
    TRY(chat_ids(d->m->tok, &w->text, &w->id, &w->where));
    w->n_where = w->id.n;
    if (!vec_grow((void **)&w->learn, &w->cap_learn, w->id.n, 1)) return no_memory();
    for (usize i = 0; i < w->id.n; i++) {
        usize from = w->where[i].start, end = from < w->where[i].end ? w->where[i].end : from + 1;
        w->learn[i] = 0;
        for (usize b = from; b < end && b < n && !w->learn[i]; b++) w->learn[i] = w->byte[b];
    }
    return OK;
}

/* ---- samples ---- */
bool data_format(tune_data *d, u32 line, tune_format format)
{
    tune_file *f = &d->file[d->n_files - 1];
    if (!d->reader->known) {
        d->reader->known = true;
        d->reader->known_line = line;
        f->format = format;
    }
    if (f->format == format) return true;
    data_refuse(d, "mixed", line, "%s found, but line %u is %s: expected one format in a file", tune_format_name[format],
                d->reader->known_line, tune_format_name[f->format]);
    return false;
}

static bool fits(tune_data *d, const data_row *r, const i32 *id, const u8 *learn, usize n, usize n_learn)
{
    const token_source *src = tokenizer_source(d->m->tok);
    const char *what = tune_format_name[d->file[d->n_files - 1].format];
    if (n > 1 && src->bos >= 0 && id[0] == src->bos && id[1] == src->bos && !r->text) {
        data_refuse(d, "double-bos", r->line, "the sample begins with two BOS tokens, expected one: take it out of the text");
        return false;
    }
    if (!n_learn) {
        data_refuse(d, "no-target", r->line, "no token of this row would be learned (%zu tokens, %s)", n, what);
        return false;
    }
    usize last = n - 1;
    while (last && !learn[last]) last--;
    if (r->ends && !token_is_end(d->m->tok, id[last])) {
        str piece = token_piece(d->m->tok, id[last]);
        data_refuse(d, "no-end-of-turn", r->line,
                    "the last learned token is \"%.*s\", expected an end-of-turn token: the model would never learn to stop",
                    (int)i64_min((i64)piece.n, 60), piece.p);
        return false;
    }
    return true;
}

static usize learned(const u8 *learn, usize n) /* the first token of a sample is nobody's target */
{
    usize sum = 0;
    for (usize i = 1; i < n; i++) sum += learn[i] != 0;
    return sum;
}

static err append(tune_data *d, const data_row *r, const i32 *id, const u8 *learn, usize n, usize n_learn)
{
    bool head = d->o.head && r->label >= 0;
    if (n > UINT32_MAX || d->n_samples >= UINT32_MAX) return err_new(ERR_UNSUPPORTED, "more samples or tokens than 2^32");
    if (!vec_grow((void **)&d->id, &d->cap_id, d->n_tokens + n, sizeof *d->id)) return no_memory();
    if (!vec_grow((void **)&d->learn, &d->cap_learn, d->n_tokens + n, 1)) return no_memory();
    memcpy(d->id + d->n_tokens, id, n * sizeof *id);
    tune_sample s = {.at = d->n_tokens, .n = (u32)n, .n_target = head ? 1 : (u32)n_learn, .n_prompt = (u32)n, .label = r->label};
    s.file = (u32)(d->n_files - 1), s.line = r->line;
    for (usize i = 0; i < n; i++) {
        d->learn[d->n_tokens + i] = !head && i && learn[i];
        if (d->learn[d->n_tokens + i] && s.n_prompt == n) s.n_prompt = (u32)i;
    }
    if (!VEC_PUSH(d->sample, d->n_samples, d->cap_samples, s)) return no_memory();
    tune_file *f = &d->file[d->n_files - 1];
    d->n_tokens += n;
    d->n_targets += s.n_target;
    f->tokens += (i64)n;
    f->targets += s.n_target;
    f->n_samples++;
    if (r->label >= 0) d->label[r->label].n++;
    return OK;
}

err data_add(tune_data *d, const data_row *row, const i32 *id, const u8 *learn, usize n)
{
    data_row r = *row;
    bool head = d->o.head && r.label >= 0;
    usize ctx = (usize)d->o.ctx, n_learn = head ? 1 : learned(learn, n);
    if (n && !head && !fits(d, &r, id, learn, n, n_learn)) return OK;
    if (n > ctx && !d->o.truncate) {
        data_refuse(d, "too-long", r.line, "%zu tokens, expected at most %lld: more --ctx, or --truncate to lose the end", n,
                    (long long)d->o.ctx);
        return OK;
    }
    if (n > ctx) {
        usize left = head ? 1 : learned(learn, ctx);
        if (!left) {
            data_refuse(d, "no-target", r.line, "of %zu tokens the first %zu are kept, and none of those would be learned", n,
                        ctx);
            return OK;
        }
        data_note(d, "truncated", r.line, "%zu tokens, cut to %zu: %zu of %zu targets are left", n, ctx, left, n_learn);
        n = ctx, n_learn = left;
    }
    return n ? append(d, &r, id, learn, n, n_learn) : OK;
}

/* ---- opening ---- */
static err read_file(tune_data *d, const char *path, str bytes)
{
    tune_file f = {.path = mem_strdup(path)};
    if (!f.path || !VEC_PUSH(d->file, d->n_files, d->cap_files, f)) {
        mem_free(f.path);
        return no_memory();
    }
    d->reader->known = false;
    d->reader->rows_seen = 0;
    usize refused = d->n_refused;
    if (str_starts(bytes, S("\xEF\xBB\xBF"))) bytes.p += 3, bytes.n -= 3;
    if (!str_trim(bytes).n) {
        data_refuse(d, "empty", 0, "the file is empty");
        return d->reader->bad;
    }
    if (str_starts(bytes, S("\x28\xB5\x2F\xFD")) || str_starts(bytes, S("\x1F\x8B"))) {
        data_refuse(d, "unknown-format", 0, "the file is compressed, expected text: unpack it first");
        return d->reader->bad;
    }
    TRY(data_rows(d, bytes, path));
    if (!d->file[d->n_files - 1].n_samples && d->n_refused == refused) data_refuse(d, "no-samples", 0, "no sample in this file");
    return d->reader->bad;
}

static err begin(tune_data **out, const model *m, const tune_opts *o)
{
    static const tune_opts none;
    tune_data *d = mem_zero(sizeof *d);
    if (!d) return no_memory();
    *out = d;
    d->m = m;
    d->o = o ? *o : none;
    i64 most = m->h.n_ctx > 0 ? m->h.n_ctx : 1 << 20; /* a model of which only the tokenizer is open does not say */
    if (d->o.ctx < 0 || d->o.ctx == 1 || d->o.ctx > most)
        return err_new(ERR_INPUT, "--ctx %lld: expected 2 to %lld tokens, the model's context", (long long)d->o.ctx,
                       (long long)most);
    if (!d->o.ctx) d->o.ctx = i64_min(most, 2048);
    d->reader = mem_zero(sizeof *d->reader);
    if (!d->reader || !(d->reader->notes = map_new())) return no_memory();
    for (i64 i = 0; i < tokenizer_size(m->tok); i++) {
        str piece = token_piece(m->tok, (i32)i);
        if (token_kind_of(m->tok, (i32)i) != TOKEN_CONTROL || !piece.n) continue;
        d->reader->control_first[(u8)piece.p[0]] = true;
        if (piece.n > d->reader->control_most) d->reader->control_most = piece.n;
    }
    return form_new(d);
}

static err finish(tune_data *d)
{
    if (!d->n_samples && !d->n_refused) data_refuse(d, "no-samples", 0, "no sample was found");
    TRY(form_finish(d));
    u64 h = hash64(d->id, d->n_tokens * sizeof *d->id, 1);
    h = hash64(d->learn, d->n_tokens, h);
    for (usize i = 0; i < d->n_samples; i++) {
        const i64 one[2] = {d->sample[i].n, d->sample[i].label};
        h = hash64(one, sizeof one, h);
    }
    d->hash = h;
    return d->reader->bad;
}

err tune_data_read(tune_data **out, const model *m, const char *name, str bytes, const tune_opts *o)
{
    *out = NULL;
    tune_data *d = NULL;
    err bad = begin(&d, m, o);
    if (!bad.code) bad = read_file(d, name, bytes);
    if (!bad.code) bad = finish(d);
    if (bad.code)
        tune_data_free(d);
    else
        *out = d;
    return bad;
}

err tune_data_open(tune_data **out, const model *m, const char *const *path, usize n, const tune_opts *o)
{
    *out = NULL;
    tune_data *d = NULL;
    err bad = n ? begin(&d, m, o) : err_new(ERR_INPUT, "no file of training data was named");
    for (usize i = 0; i < n && !bad.code; i++) {
        file_map f = {0};
        bad = file_is_dir(path[i]) ? err_new(ERR_INPUT, "%s is a folder, expected a file", path[i]) : file_map_open(&f, path[i]);
        if (bad.code) break;
        bad = read_file(d, path[i], (str){(const char *)f.p, f.n});
        if (bad.code) bad = err_at(bad, "%s", path[i]);
        file_map_close(&f);
    }
    if (!bad.code) bad = finish(d);
    if (bad.code)
        tune_data_free(d);
    else
        *out = d;
    return bad;
}

err tune_data_ready(const tune_data *d)
{
    for (usize i = 0; i < d->n_problems; i++) {
        if (!d->problem[i].refuse) continue;
        if (d->n_refused == 1) return err_new(ERR_FORMAT, "%s (%s)", d->problem[i].message, d->problem[i].kind);
        return err_new(ERR_FORMAT, "%s (%s); %zu more: maru tune check lists them", d->problem[i].message, d->problem[i].kind,
                       d->n_refused - 1);
    }
    if (d->n_refused) return err_new(ERR_FORMAT, "%zu rows teach nothing", d->n_refused);
    return OK;
}

void tune_data_free(tune_data *d)
{
    if (!d) return;
    for (usize i = 0; i < d->n_files; i++) mem_free(d->file[i].path);
    for (usize i = 0; i < d->n_problems; i++) mem_free(d->problem[i].message);
    if (d->reader) {
        draft_free(&d->reader->draft);
        draft_free(&d->reader->other);
        map_free(d->reader->notes);
    }
    mem_free(d->reader);
    form_free(d->form);
    mem_free(d->id);
    mem_free(d->learn);
    mem_free(d->sample);
    mem_free(d->file);
    mem_free(d->problem);
    mem_free(d->label);
    mem_free(d->template);
    mem_free(d->labels);
    mem_free(d);
}
