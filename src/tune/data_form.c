/* tune/data_form.c - rows without a conversation: label rows in their form, prompt and completion, plain documents.
 *
 * The form is what a classifier by words sees: a template with {text} in it and a word for each label. It has to be the same in
 * training, scoring and serving, so tune_data_form is the one place that makes it. The options' text is the user's command line
 * and may hold control tokens; the rows' text may not. */
#include "tune/data_inside.h"
#include <stdlib.h>

enum { LABELS_MAX = 1000 };

static err no_memory(void) { return err_new(ERR_NOMEM, "out of memory for the labels"); }

/* ---- the options' writing ---- */
/* \n \t \\ and the escaped `more`; at most up to an unescaped byte of `stop` */
static usize unescape(buf *out, str s, const char *more, const char *stop)
{
    usize i = 0;
    for (; i < s.n; i++) {
        char c = s.p[i], next = i + 1 < s.n ? s.p[i + 1] : 0;
        if (c == '\\' && next == 'n')
            buf_byte(out, '\n'), i++;
        else if (c == '\\' && next == 't')
            buf_byte(out, '\t'), i++;
        else if (c == '\\' && next && (next == '\\' || strchr(more, next)))
            buf_byte(out, next), i++;
        else if (c && strchr(stop, c))
            break;
        else
            buf_byte(out, c);
    }
    return i;
}

static void escape(buf *out, str s, const char *more)
{
    for (usize i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '\n')
            buf_puts(out, "\\n");
        else if (c == '\t')
            buf_puts(out, "\\t");
        else if (c == '\\' || (c && strchr(more, c)))
            buf_byte(out, '\\'), buf_byte(out, c);
        else
            buf_byte(out, c);
    }
}

static err template_new(tune_data *d)
{
    static const str hole = {"{text}", 6};
    buf whole = {0};
    err bad = OK;
    const char *given = d->o.template, *prefix = d->m->query_prefix;
    if (given) {
        unescape(&whole, str_of(given), "", "");
    } else {
        if (d->o.head && prefix) buf_puts(&whole, prefix);
        buf_puts(&whole, d->o.head ? "{text}" : "{text}\nlabel:");
    }
    i64 at = str_find(buf_view(&whole), hole, 0);
    if (whole.bad)
        bad = no_memory();
    else if (at < 0 || str_find(buf_view(&whole), hole, (usize)at + hole.n) >= 0)
        bad = err_new(ERR_INPUT, "--template \"%s\": expected {text} in it, once", given ? given : "");
    if (!bad.code) {
        buf_put(&d->form->before, whole.p, (usize)at);
        buf_put(&d->form->after, whole.p + at + hole.n, whole.n - (usize)at - hole.n);
        bad = buf_error(&d->form->before);
        if (!bad.code) bad = buf_error(&d->form->after);
    }
    buf_free(&whole);
    return bad;
}

static err label_new(tune_data *d, str name, str word, bool has_word)
{
    struct tune_form *f = d->form;
    buf own = {0};
    if (!has_word) { /* a word of its own behind the template */
        usize n = f->after.n;
        if (!n || !strchr(" \n\t", f->after.p[n - 1])) buf_byte(&own, ' ');
        buf_str(&own, name);
        word = buf_view(&own);
    }
    tune_label l = {{arena_str(f->a, name.p, name.n), name.n}, {arena_str(f->a, word.p, word.n), word.n}, 0};
    bool bad = own.bad || !l.name.p || !l.word.p || !map_put(f->index, name, d->n_labels);
    buf_free(&own);
    return bad || !VEC_PUSH(d->label, d->n_labels, d->cap_labels, l) ? no_memory() : OK;
}

static err labels_new(tune_data *d)
{
    str rest = str_of(d->o.labels);
    buf name = {0}, word = {0};
    err bad = OK;
    u64 seen;
    while (!bad.code) {
        buf_reset(&name), buf_reset(&word);
        usize n = unescape(&name, rest, ",=", ",=");
        bool has_word = n < rest.n && rest.p[n] == '=';
        rest.p += n + has_word, rest.n -= n + has_word;
        if (has_word) {
            n = unescape(&word, rest, ",=", ",");
            rest.p += n, rest.n -= n;
        }
        str trimmed = str_trim(buf_view(&name));
        if (name.bad || word.bad)
            bad = no_memory();
        else if (!trimmed.n || (has_word && !word.n))
            bad = err_new(ERR_INPUT, "--labels \"%s\": expected LABEL=WORD,LABEL=WORD ...", d->o.labels);
        else if (map_get(d->form->index, trimmed, &seen))
            bad = err_new(ERR_INPUT, "--labels: \"%.*s\" stands there twice", (int)i64_min(60, (i64)trimmed.n), trimmed.p);
        else
            bad = label_new(d, trimmed, buf_view(&word), has_word);
        if (!rest.n) break;
        rest.p++, rest.n--;
    }
    for (usize i = 0; i < d->n_labels && !d->o.head && !bad.code; i++)
        for (usize k = 0; k < i && !bad.code; k++)
            if (str_eq(d->label[i].word, d->label[k].word)) bad = err_new(ERR_INPUT, "--labels: two labels have one word");
    if (!bad.code && d->n_labels < 2) bad = err_new(ERR_INPUT, "--labels \"%s\": expected two labels or more", d->o.labels);
    buf_free(&name);
    buf_free(&word);
    return bad;
}

err form_new(tune_data *d)
{
    d->form = mem_zero(sizeof *d->form);
    if (!d->form || !(d->form->a = arena_new()) || !(d->form->index = map_new())) return no_memory();
    d->form->given = d->o.labels != NULL;
    TRY(template_new(d));
    return d->o.labels ? labels_new(d) : OK;
}

void form_free(struct tune_form *f)
{
    if (!f) return;
    buf_free(&f->before);
    buf_free(&f->after);
    map_free(f->index);
    arena_free(f->a);
    mem_free(f);
}

static int by_name(const void *a, const void *b, void *labels)
{
    const tune_label *l = labels;
    str x = l[*(const u32 *)a].name, y = l[*(const u32 *)b].name;
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

/* Labels got their numbers in the order in which rows came; what is trained should not depend on that. */
static err sort_labels(tune_data *d)
{
    usize n = d->n_labels;
    if (!n) return OK;
    u32 *order = mem_array(u32, n + 1), *now = mem_array(u32, n + 1);
    tune_label *sorted = mem_array(tune_label, n + 1);
    err bad = order && now && sorted ? OK : no_memory();
    if (!bad.code) {
        for (usize i = 0; i < n; i++) order[i] = (u32)i;
        qsort_r(order, n, sizeof *order, by_name, d->label);
        for (usize i = 0; i < n; i++) now[order[i]] = (u32)i, sorted[i] = d->label[order[i]];
        for (usize i = 0; i < d->n_samples; i++)
            if (d->sample[i].label >= 0) d->sample[i].label = (i32)now[d->sample[i].label];
        memcpy(d->label, sorted, n * sizeof *sorted);
        for (usize i = 0; i < n && !bad.code; i++)
            if (!map_put(d->form->index, d->label[i].name, i)) bad = no_memory();
    }
    mem_free(order);
    mem_free(now);
    mem_free(sorted);
    return bad;
}

err form_finish(tune_data *d)
{
    bool used = d->n_labels && !d->form->given;
    for (usize i = 0; i < d->n_files; i++) used |= d->file[i].n_rows && d->file[i].format == TUNE_LABEL;
    if (!used) {
        if (d->o.template || d->o.labels)
            data_note(d, "unused-form", 0, "no rows with a label: --template and --labels are not used");
        d->o.template = d->o.labels = NULL;
        return OK;
    }
    if (!d->form->given) TRY(sort_labels(d));
    if (d->n_labels == 1)
        data_refuse(d, "no-target", 0, "all rows have the label \"%.*s\", expected two labels or more",
                    (int)i64_min(60, (i64)d->label[0].name.n), d->label[0].name.p);
    buf template = {0}, labels = {0};
    escape(&template, buf_view(&d->form->before), "");
    buf_puts(&template, "{text}");
    escape(&template, buf_view(&d->form->after), "");
    for (usize i = 0; i < d->n_labels; i++) {
        if (i) buf_byte(&labels, ',');
        escape(&labels, d->label[i].name, ",=");
        buf_byte(&labels, '=');
        escape(&labels, d->label[i].word, ",=");
    }
    buf_puts(&labels, "");
    err bad = template.bad || labels.bad ? no_memory() : OK;
    d->template = buf_take(&template);
    d->labels = labels.n ? buf_take(&labels) : mem_strdup("");
    buf_free(&template);
    buf_free(&labels);
    d->o.template = d->template, d->o.labels = d->labels;
    return d->template && d->labels ? bad : no_memory();
}

/* ---- label rows ---- */
static err form_draft(const tune_data *d, data_draft *w, str text, i32 label)
{
    draft_begin(w);
    TRY(draft_put(w, buf_view(&d->form->before), true, false));
    TRY(draft_put(w, text, d->o.special, false));
    TRY(draft_put(w, buf_view(&d->form->after), true, false));
    if (label >= 0 && !d->o.head) TRY(draft_put(w, d->label[label].word, true, true));
    TRY(draft_ids(d, w));
    const token_source *src = tokenizer_source(d->m->tok);
    if (d->o.head && src->add_eos == 1 && src->eos >= 0) TRY(draft_push(w, (i32)src->eos, false)); /* an encoder's separator */
    return OK;
}

/* the text loses so much of its end that form and word stay whole */
static err shorten(tune_data *d, data_draft *w, str *text, i32 label)
{
    usize ctx = (usize)d->o.ctx, before = d->form->before.n;
    for (int round = 0; round < 8 && w->id.n > ctx && text->n; round++) {
        usize over = w->id.n - ctx, last = w->n_where;
        while (last && w->where[last - 1].start >= before + text->n) last--;
        usize from = last > over ? w->where[last - over].start : 0, n = from > before ? from - before : 0;
        text->n = utf8_complete((str){text->p, n < text->n ? n : text->n - 1});
        TRY(form_draft(d, w, *text, label));
    }
    return OK;
}

err data_label(tune_data *d, u32 line, str text, str name)
{
    data_draft *w = &d->reader->draft;
    u64 label;
    text = str_trim(text), name = str_trim(name);
    if (!text.n) {
        data_refuse(d, "empty", line, "the text is empty");
        return OK;
    }
    if (!map_get(d->form->index, name, &label)) {
        if (d->form->given || d->n_labels >= LABELS_MAX || !name.n) {
            data_refuse(d, "unknown-label", line,
                        d->form->given ? "the label is \"%.*s\", expected one of --labels %s"
                                       : "the label is \"%.*s\", expected a label of at most 1,000 different ones%s",
                        (int)i64_min(60, (i64)name.n), name.p ? name.p : "", d->form->given ? d->o.labels : "");
            return OK;
        }
        label = d->n_labels;
        TRY(label_new(d, name, (str){0}, false));
    }
    if (!d->o.special) data_note_special(d, line, text);
    TRY(form_draft(d, w, text, (i32)label));
    if (w->id.n > (usize)d->o.ctx && d->o.truncate) {
        usize n = w->id.n;
        TRY(shorten(d, w, &text, (i32)label));
        if (w->id.n <= (usize)d->o.ctx)
            data_note(d, "truncated", line, "%zu tokens: the text lost its end, %zu are left", n, w->id.n);
    }
    data_row r = {.line = line, .label = (i32)label};
    return data_add(d, &r, w->id.id, w->learn, w->id.n);
}

err tune_data_form(const tune_data *d, str text, i32 label, ids *out, usize *n_prompt)
{
    data_draft w = {0};
    if (label >= 0 && (usize)label >= d->n_labels) return err_new(ERR_INPUT, "label %d, but there are %zu", label, d->n_labels);
    err bad = form_draft(d, &w, str_trim(text), label);
    usize first = 0;
    while (!bad.code && first < w.id.n && !w.learn[first]) first++;
    if (!bad.code && !ids_append(out, w.id.id, w.id.n)) bad = no_memory();
    if (!bad.code && n_prompt) *n_prompt = first;
    draft_free(&w);
    return bad;
}

/* ---- prompt and completion ---- */
static err note_boundary(tune_data *d, u32 line, str prompt, const data_draft *whole)
{
    data_draft *w = &d->reader->other;
    draft_begin(w);
    TRY(draft_put(w, prompt, d->o.special, false));
    TRY(draft_ids(d, w));
    if (w->id.n > whole->id.n || memcmp(w->id.id, whole->id.id, w->id.n * sizeof *w->id.id))
        data_note(
            d, "boundary", line,
            "the prompt's last token reaches into the completion: asked with the prompt alone, the model sees other tokens");
    return OK;
}

err data_pair(tune_data *d, u32 line, str prompt, str completion)
{
    data_draft *w = &d->reader->draft;
    i64 eos = tokenizer_source(d->m->tok)->eos;
    if (!str_trim(completion).n) {
        data_refuse(d, "empty", line, "the completion is empty");
        return OK;
    }
    if (!d->o.special) data_note_special(d, line, prompt), data_note_special(d, line, completion);
    draft_begin(w);
    TRY(draft_put(w, prompt, d->o.special, false));
    TRY(draft_put(w, completion, d->o.special, true));
    TRY(draft_ids(d, w));
    if (prompt.n && d->reader->rows_seen < LOOKED_AT) TRY(note_boundary(d, line, prompt, w));
    if (eos >= 0 && !(w->id.n && w->id.id[w->id.n - 1] == eos)) TRY(draft_push(w, (i32)eos, true));
    data_row r = {.line = line, .label = -1, .ends = true};
    return data_add(d, &r, w->id.id, w->learn, w->id.n);
}

/* ---- documents ---- */
err data_text(tune_data *d, u32 line, str text)
{
    data_draft *w = &d->reader->draft;
    const token_source *src = tokenizer_source(d->m->tok);
    if (!str_trim(text).n) {
        data_refuse(d, "empty", line, "the text is empty");
        return OK;
    }
    if (text.n > ROW_MAX) return err_new(ERR_UNSUPPORTED, "a text of %zu bytes, expected at most %d", text.n, ROW_MAX);
    if (!d->o.special) data_note_special(d, line, text);
    draft_begin(w);
    if (src->add_bos == 1 && src->bos >= 0) TRY(draft_push(w, (i32)src->bos, false));
    TRY(tokenize(d->m->tok, text, d->o.special ? TOKENIZE_SPECIAL : 0, &w->id));
    if (w->id.n > 1 && src->bos >= 0 && w->id.id[0] == src->bos && w->id.id[1] == src->bos) {
        data_refuse(d, "double-bos", line, "the text begins with two BOS tokens, expected one: take it out of the text");
        return OK;
    }
    if (src->eos >= 0 && w->id.id[w->id.n - 1] != src->eos && !ids_push(&w->id, (i32)src->eos)) return no_memory();
    if (!vec_grow((void **)&w->learn, &w->cap_learn, w->id.n, 1)) return no_memory();
    memset(w->learn, 1, w->id.n);
    usize ctx = (usize)d->o.ctx, at = 0;
    do { /* a window begins with the last token of the one before, so that every token is a target once */
        usize n = w->id.n - at < ctx ? w->id.n - at : ctx;
        data_row r = {.line = line, .label = -1, .text = true};
        u8 first = w->learn[at];
        w->learn[at] = 0;
        err bad = data_add(d, &r, w->id.id + at, w->learn + at, n);
        w->learn[at] = first;
        TRY(bad);
        at += n - 1;
    } while (at + 1 < w->id.n);
    return OK;
}
