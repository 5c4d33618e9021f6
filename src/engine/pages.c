/* engine/pages.c - KV pages. Only full pages are shared, so nobody writes into what another sequence reads. A page is found by a
 * hash of what it continues (serial of the page before), its owner, adapter and tokens; all of them are compared, never the hash
 * alone, so one user's text can not come back in another's. Pages of no sequence stay findable until they are needed, oldest first. */
#include "engine/inside.h"

err pages_init(pages *pg, i64 n)
{
    u64 buckets = 64;
    while (buckets < (u64)n * 2) buckets *= 2;
    *pg = (pages){.n = n, .p = mem_array(page, n), .bucket = mem_array(i32, buckets), .free = mem_array(i32, n), .mask = buckets - 1};
    if (!pg->p || !pg->bucket || !pg->free) return err_new(ERR_NOMEM, "out of memory for %lld KV pages", (long long)n);
    for (u64 i = 0; i < buckets; i++) pg->bucket[i] = -1;
    for (i64 i = n; i-- > 0;) pg->free[pg->n_free++] = (i32)i;
    return OK;
}

void pages_free(pages *pg)
{
    mem_free(pg->p);
    mem_free(pg->bucket);
    mem_free(pg->free);
    *pg = (pages){0};
}

static u64 bucket_of(const pages *pg, u64 before, u64 owner, i32 adapter, const i32 *tok)
{
    u64 key[3] = {before, owner, (u64)(u32)adapter};
    return hash64(tok, KV_PAGE * sizeof *tok, hash64(key, sizeof key, 1)) & pg->mask;
}

static void unlist(pages *pg, i32 at)
{
    page *p = &pg->p[at];
    if (!p->listed) return;
    i32 *link = &pg->bucket[bucket_of(pg, p->before, p->owner, p->adapter, p->token)];
    while (*link >= 0 && *link != at) link = &pg->p[*link].next;
    if (*link == at) *link = p->next;
    p->listed = false;
}

static i32 lookup(const pages *pg, u64 before, u64 owner, i32 adapter, const i32 *tok)
{
    for (i32 at = pg->bucket[bucket_of(pg, before, owner, adapter, tok)]; at >= 0; at = pg->p[at].next) {
        const page *p = &pg->p[at];
        if (p->before == before && p->owner == owner && p->adapter == adapter && !memcmp(p->token, tok, sizeof p->token)) return at;
    }
    return -1;
}

/* a page nobody holds: unused ones first, then the one whose last use is longest ago */
static i32 take(pages *pg)
{
    i32 at = -1;
    if (pg->n_free) {
        at = pg->free[--pg->n_free];
    } else {
        for (i64 i = 0; i < pg->n; i++)
            if (!pg->p[i].refs && (at < 0 || pg->p[i].used < pg->p[at].used)) at = (i32)i;
        if (at < 0) return -1;
        unlist(pg, at);
    }
    pg->p[at] = (page){.refs = 1, .serial = ++pg->serial, .next = -1, .used = ++pg->clock};
    return at;
}

static void give(pages *pg, i32 at)
{
    page *p = &pg->p[at];
    if (--p->refs) return;
    p->used = ++pg->clock;
    if (!p->listed) pg->free[pg->n_free++] = at;
}

static bool push_page(sequence *s, i32 at) { return VEC_PUSH(s->page, s->n_page, s->cap_page, at); }

static void cut(pages *pg, sequence *s, usize n)
{
    usize whole = (n + KV_PAGE - 1) / KV_PAGE;
    while (s->n_page > whole) give(pg, s->page[--s->n_page]);
    s->tok.n = n;
    if (n % KV_PAGE == 0) return;
    page *last = &pg->p[s->page[s->n_page - 1]];
    if (last->listed) { /* full and findable by others: it is not ours to overwrite */
        give(pg, s->page[--s->n_page]);
        s->tok.n = n / KV_PAGE * KV_PAGE;
    } else {
        last->n = (i32)(n % KV_PAGE);
    }
}

void sequence_match(pages *pg, sequence *s, const i32 *want, usize n)
{
    usize same = 0, most = n ? n - 1 : 0;
    while (same < s->tok.n && same < most && s->tok.id[same] == want[same]) same++;
    cut(pg, s, same);
    while (s->tok.n % KV_PAGE == 0 && s->tok.n + KV_PAGE <= most) {
        u64 before = s->n_page ? pg->p[s->page[s->n_page - 1]].serial : 0;
        i32 at = lookup(pg, before, s->owner, s->adapter, want + s->tok.n);
        if (at < 0 || !push_page(s, at)) break;
        if (!ids_append(&s->tok, want + s->tok.n, KV_PAGE)) {
            s->n_page--;
            break;
        }
        pg->p[at].refs++;
        pg->p[at].used = ++pg->clock;
    }
}

err sequence_room(pages *pg, sequence *s, usize n)
{
    usize had = s->n_page;
    err   bad = vec_grow((void **)&s->tok.id, &s->tok.cap, n, sizeof *s->tok.id) ? OK : err_new(ERR_NOMEM, "out of memory for a sequence");
    while (!bad.code && s->n_page * KV_PAGE < n) {
        i32 at = take(pg);
        if (at < 0) {
            bad = err_new(ERR_NOMEM, "KV cache full: all %lld pages of %d positions are in use", (long long)pg->n, KV_PAGE);
        } else if (!push_page(s, at)) {
            give(pg, at);
            bad = err_new(ERR_NOMEM, "out of memory for a sequence");
        }
    }
    while (bad.code && s->n_page > had) give(pg, s->page[--s->n_page]);
    return bad;
}

void sequence_append(pages *pg, sequence *s, const i32 *tok, usize n)
{
    for (usize i = 0; i < n; i++) {
        usize at = s->tok.n / KV_PAGE;
        page *p = &pg->p[s->page[at]];
        p->token[p->n++] = tok[i];
        s->tok.id[s->tok.n++] = tok[i];
        if (p->n < KV_PAGE) continue;
        p->before = at ? pg->p[s->page[at - 1]].serial : 0;
        p->owner = s->owner;
        p->adapter = s->adapter;
        if (lookup(pg, p->before, p->owner, p->adapter, p->token) >= 0) continue; /* another has the same: ours stays private */
        i32 *head = &pg->bucket[bucket_of(pg, p->before, p->owner, p->adapter, p->token)];
        p->next = *head;
        *head = s->page[at];
        p->listed = true;
    }
}

void sequence_drop(pages *pg, sequence *s)
{
    while (s->n_page) give(pg, s->page[--s->n_page]);
    mem_free(s->page);
    ids_free(&s->tok);
    s->page = NULL;
    s->n_page = s->cap_page = 0;
}
