/* rag/terms.c - a text as the terms of a keyword index, in one pass.
 *
 * Korean needs no analyser for this: words lose the longest of some eighty endings while two syllables remain, and what is left
 * is cut into overlapping pairs of syllables, so that a word is found inside compounds and next to endings the list does not
 * know. Measured level with a morphological analyser at a hundredth of its cost. Other words become stems (Snowball's English),
 * Chinese characters pairs. Where scripts meet inside a word ("API를", "2023년도") both parts are terms of their own.
 *
 * A term is a 64-bit hash, never a string: pairs are hashed one to one, words practically so (2^64). Folding is character by
 * character (compatibility forms, full width, case), so that positions stay those of the text.
 *
 * Field 2 answers queries of a single syllable, which no pair can: a text gives the first syllable of each Korean word and each
 * Chinese character; a query gives it only when it has nothing longer to ask for.
 *
 * Not here: languages written without spaces other than Chinese and Japanese; stems of languages other than English. */
#include "rag/rag.h"
#include "text/text.h"
#include <libstemmer.h>
#include <pthread.h>

enum { BREAK, HANGUL, HAN, WORD, DIGIT, MARK, SKIP, EXPAND, FAILED }; /* what a character is, above its folded code in an entry */
enum { RUN_MAX = 256, STEM_MAX = 64, STEM_CACHE = 2048 };
enum { CODE = 0x1FFFFF, KIND_SHIFT = 24 };

/* ---- hashes: changing one makes every keyword index stale (TERMS_VERSION in keyword.h) ---------------------------- */
static u64 mix(u64 x)
{
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

static u64 hash_pair(u32 a, u32 b) { return mix((u64)(a + 1) << 24 | (b + 1)); } /* one to one */
static u64 hash_one(u32 a) { return mix((u64)(a + 1) << 24); }
static u64 hash_word(const u32 *c, usize n)
{
    u64 h = 0x9E3779B97F4A7C15u;
    for (usize i = 0; i < n; i++) {
        h = (h ^ c[i]) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    return mix(h);
}

/* ---- folding ------------------------------------------------------------------------------------------------------------------
 * A table for the basic plane, filled by blocks of 256 when first met; Hangul and Chinese characters fold to themselves. */
static u32 fold_table[65536];
static atomic_bool fold_ready[256];
static pthread_mutex_t fold_lock = PTHREAD_MUTEX_INITIALIZER;

static u32 kind_of(u32 c)
{
    if (text_is_hangul(c)) return HANGUL;
    if (text_is_han(c) || (c >= 0x3041 && c <= 0x30FF && c != 0x30FB)) return HAN; /* kana too: no spaces between words either */
    if (c == 0xAD || (c >= 0x200B && c <= 0x200D) || c == 0x2060 || c == 0xFEFF || (c >= 0xFE00 && c <= 0xFE0F)) return SKIP;
    if (text_is_digit(c)) return DIGIT;
    if (!text_is_letter(c)) return BREAK;
    return c >= 0x300 && c <= 0x36F ? MARK : WORD;
}

/* what c becomes: usually one character; false when memory is out */
static bool fold_text(u32 c, buf *out)
{
    char utf8[4];
    buf wide = {0};
    bool good = !text_nfkc(&wide, (str){utf8, utf8_put(utf8, c)}).code && !text_lower(out, buf_view(&wide)).code;
    buf_free(&wide);
    return good;
}

static u32 fold_slow(u32 c)
{
    buf b = {0};
    u32 entry = kind_of(c) << KIND_SHIFT | c;
    if (!fold_text(c, &b)) {
        entry = (u32)FAILED << KIND_SHIFT;
    } else if (b.n) {
        usize at = 0;
        u32 first = utf8_next(buf_view(&b), &at);
        entry = at < b.n ? (u32)EXPAND << KIND_SHIFT | c : kind_of(first) << KIND_SHIFT | first;
    }
    buf_free(&b);
    return entry;
}

static bool fold_fill(u32 first)
{
    for (u32 c = first; c < first + 256; c++) {
        fold_table[c] = fold_slow(c);
        if (fold_table[c] >> KIND_SHIFT == FAILED) return false;
    }
    return true;
}

static u32 fold(u32 c)
{
    if (c >= 0xAC00 && c <= 0xD7A3) return (u32)HANGUL << KIND_SHIFT | c;
    if (c >= 0x4E00 && c <= 0x9FFF) return (u32)HAN << KIND_SHIFT | c;
    if (c > 0xFFFF) return fold_slow(c);
    if (!atomic_load_explicit(&fold_ready[c >> 8], memory_order_acquire)) {
        pthread_mutex_lock(&fold_lock);
        bool ready = atomic_load(&fold_ready[c >> 8]) || fold_fill(c & ~0xFFu);
        atomic_store_explicit(&fold_ready[c >> 8], ready, memory_order_release);
        pthread_mutex_unlock(&fold_lock);
        if (!ready) return (u32)FAILED << KIND_SHIFT;
    }
    return fold_table[c];
}

/* ---- Korean endings and question words ---------------------------------------------------------------------------- */
static const char *const endings = /* longest first does not matter: the longest match is looked for */
    "은 는 이 가 을 를 의 에 로 과 와 도 만 에서 에게 으로 부터 까지 라고 라는 이라는 이라고 하고 보다 처럼 에는 에도 에서는 "
    "에서도 "
    "으로는 으로도 로는 로도 이나 나 이란 란 이며 며 이다 다 였다 이었다 했다 하였다 한다 하는 하여 해서 했던 하던 한 할 된 되는 "
    "되어 됐다 되었다 된다 들 들이 들은 들을 들의 인가 인가요 일까 일까요 는가 나요 까요 습니까 니까 한가 했는가 하는가 였는가 "
    "이었는가 은가 던가 었는가";
static const char *const question_words = "무엇 누구 어디 언제 어느 어떤 어떻게 왜 몇 무슨 얼마";
static const char *const stop_words =
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with";

enum { ENDING_MAX = 4, SLOTS = 256 };
static u64 ending_slot[SLOTS];                    /* open addressing; an ending as 16 bits a syllable */
static u8 ending_last[(0xD7A4 - 0xAC00) / 8 + 1]; /* whether any ending ends so */
static u64 stop_slot[SLOTS];
static u32 question[16][8];
static usize question_len[16], n_questions;
static pthread_once_t lists_once = PTHREAD_ONCE_INIT;
static pthread_key_t stemmer_key;

static void slot_put(u64 *slot, u64 key)
{
    usize i = key * 0x9E3779B97F4A7C15u >> 56;
    while (slot[i] && slot[i] != key) i = (i + 1) % SLOTS;
    slot[i] = key;
}

static bool slot_has(const u64 *slot, u64 key)
{
    usize i = key * 0x9E3779B97F4A7C15u >> 56;
    while (slot[i] && slot[i] != key) i = (i + 1) % SLOTS;
    return slot[i] == key;
}

static usize next_listed(str list, usize *at, u32 c[16])
{
    usize n = 0;
    while (*at < list.n) {
        u32 x = utf8_next(list, at);
        if (x == ' ') break;
        c[n++] = x;
    }
    return n;
}

static void stemmer_drop(void *s) { sb_stemmer_delete(s); }

static void lists_make(void)
{
    u32 c[16];
    str list = str_of(endings);
    for (usize at = 0, n; (n = next_listed(list, &at, c));) {
        u64 key = 0;
        for (usize i = 0; i < n; i++) key = key << 16 | c[i];
        slot_put(ending_slot, key);
        ending_last[(c[n - 1] - 0xAC00) / 8] |= (u8)(1 << (c[n - 1] - 0xAC00) % 8);
    }
    list = str_of(stop_words);
    for (usize at = 0, n; (n = next_listed(list, &at, c));) slot_put(stop_slot, hash_word(c, n));
    list = str_of(question_words);
    for (usize at = 0, n; (n = next_listed(list, &at, c)); n_questions++) {
        memcpy(question[n_questions], c, n * sizeof *c);
        question_len[n_questions] = n;
    }
    pthread_key_create(&stemmer_key, stemmer_drop);
}

/* length of the longest ending of a word that leaves at least `rest` syllables */
static usize ending_len(const u32 *c, usize n, usize rest)
{
    u32 last = c[n - 1] - 0xAC00;
    if (n <= rest || last > 0xD7A3 - 0xAC00 || !(ending_last[last / 8] >> last % 8 & 1)) return 0;
    usize most = n - rest < ENDING_MAX ? n - rest : ENDING_MAX, found = 0;
    u64 key = 0;
    for (usize k = 1; k <= most; k++) {
        key |= (u64)(c[n - k] & 0xFFFF) << 16 * (k - 1);
        if (slot_has(ending_slot, key)) found = k;
    }
    return found;
}

static bool is_ending(const u32 *c, usize n)
{
    u64 key = 0;
    for (usize i = 0; i < n && n <= ENDING_MAX; i++) key = key << 16 | (c[i] & 0xFFFF);
    return key && slot_has(ending_slot, key);
}

/* a question word and what hangs on it, up to five syllables; but not 왜구 or 왜곡: after 왜 only endings */
static bool is_question(const u32 *c, usize n)
{
    for (usize q = 0; q < n_questions; q++) {
        usize k = question_len[q];
        if (n < k || n > k + 5 || memcmp(c, question[q], k * sizeof *c)) continue;
        if (c[0] != 0xC65C || n == k || is_ending(c + k, n - k)) return true;
    }
    return false;
}

/* ---- stems -----------------------------------------------------------------------------------------------------------
 * A stemmer is not for several threads, and slow next to the rest: each thread has its own, behind a cache from the hash of a
 * word to the hash of its stem (0: a stop word). */
static _Thread_local struct {
    u64 word[STEM_CACHE], stem[STEM_CACHE];
    struct sb_stemmer *s;
} english;

static bool stem_hash(const u32 *c, usize n, u64 *out)
{
    u64 h = hash_word(c, n);
    usize at = h % STEM_CACHE;
    if (english.word[at] == h) return *out = english.stem[at], true;
    u64 stem = h;
    if (n <= 5 && slot_has(stop_slot, h)) {
        stem = 0;
    } else if (c[0] > '9' && n <= STEM_MAX) {
        char utf8[STEM_MAX * 4];
        usize len = 0;
        for (usize i = 0; i < n; i++) len += utf8_put(utf8 + len, c[i]);
        if (!english.s) {
            english.s = sb_stemmer_new("english", "UTF_8");
            if (!english.s) return false;
            pthread_setspecific(stemmer_key, english.s);
        }
        const sb_symbol *s = sb_stemmer_stem(english.s, (const sb_symbol *)utf8, (int)len);
        if (!s) return false;
        str t = {(const char *)s, (usize)sb_stemmer_length(english.s)};
        u32 folded[STEM_MAX + 8];
        usize k = 0;
        for (usize i = 0; i < t.n && k < COUNT_OF(folded);) folded[k++] = utf8_next(t, &i);
        stem = hash_word(folded, k);
    }
    english.word[at] = h, english.stem[at] = stem;
    return *out = stem, true;
}

/* ---- cutting ------------------------------------------------------------------------------------------------------ */
typedef struct {
    terms *out;
    str text;
    usize at;  /* byte after the character being looked at */
    u32 place; /* its position */
    u32 kind;  /* of the run being read: BREAK (none), HANGUL, HAN, WORD */
    bool query, numeric, carried, bad;
    bool glued;  /* the run follows one of another script without a gap */
    bool longer; /* something longer than one syllable was given out */
    usize n;
    u32 c[RUN_MAX], pos[RUN_MAX]; /* the run, folded, and where each character was */
} cutter;

static void give(cutter *k, u64 hash, usize from, usize to, u8 field)
{
    k->out->t[k->out->n++] = (term){hash, k->pos[from], k->pos[to - 1] + 1, field};
}

static void give_pairs(cutter *k, usize n)
{
    if (n == 1 && !k->carried) give(k, hash_one(k->c[0]), 0, 1, 0);
    for (usize i = 0; i + 1 < n; i++) give(k, hash_pair(k->c[i], k->c[i + 1]), i, i + 2, 0);
    k->longer |= n > 1;
}

static void end_hangul(cutter *k, bool whole)
{
    if (whole && k->query && is_question(k->c, k->n)) return;
    if (whole && k->glued && is_ending(k->c, k->n)) return; /* the 를 of "API를" */
    usize n = k->n - (whole ? ending_len(k->c, k->n, 2) : 0);
    if (!k->query && !k->carried) give(k, hash_one(k->c[0]), 0, 1, 2);
    give_pairs(k, n);
    if (whole && n > 1) give(k, hash_word(k->c, n), 0, n, 1);
}

static void end_han(cutter *k)
{
    for (usize i = k->carried; !k->query && i < k->n; i++) give(k, hash_one(k->c[i]), i, i + 1, 2);
    give_pairs(k, k->n);
}

static void end_word(cutter *k)
{
    u64 h;
    if (!stem_hash(k->c, k->n, &h))
        k->bad = true;
    else if (h) {
        give(k, h, 0, k->n, 0);
        give(k, h, 0, k->n, 1);
        k->longer = true;
    }
}

/* gives out the terms of the run; whole: it ends here, rather than being too long for the buffer */
static void end_run(cutter *k, bool whole)
{
    terms *t = k->out;
    if (!k->n) return;
    if (t->cap < t->n + 2 * k->n + 2 && !vec_grow((void **)&t->t, &t->cap, t->n + 2 * k->n + 2, sizeof *t->t))
        k->bad = true;
    else if (k->kind == HANGUL)
        end_hangul(k, whole && !k->carried);
    else if (k->kind == HAN)
        end_han(k);
    else
        end_word(k);
    k->carried = !whole && k->kind != WORD;
    if (k->carried) k->c[0] = k->c[k->n - 1], k->pos[0] = k->pos[k->n - 1];
    k->n = k->carried;
    if (whole) k->kind = BREAK;
}

static void feed(cutter *k, u32 entry)
{
    u32 kind = entry >> KIND_SHIFT;
    if (kind == SKIP || (kind == MARK && k->kind != WORD)) return;
    if (kind == BREAK) return end_run(k, true);
    bool digit = kind == DIGIT;
    if (kind == MARK || digit) kind = WORD;
    if (kind != k->kind) {
        k->glued = k->n > 0;
        end_run(k, true);
        k->kind = kind, k->numeric = true;
    } else if (k->n == RUN_MAX) {
        end_run(k, false);
    }
    k->numeric &= digit;
    k->c[k->n] = entry & CODE;
    k->pos[k->n++] = k->place;
}

/* 12,345 is one number, don't one word: whether a comma or an apostrophe at this place is inside */
static bool joins(const cutter *k, u32 c)
{
    if (k->kind != WORD || !k->n || k->at >= k->text.n) return false;
    const char *p = k->text.p + k->at;
    if (c == '\'' || c == 0x2019) return (*p | 32) >= 'a' && (*p | 32) <= 'z';
    if (c != ',' || !k->numeric) return false;
    usize n = 0;
    while (n < 4 && k->at + n < k->text.n && p[n] >= '0' && p[n] <= '9') n++;
    return n == 3;
}

static void feed_expanded(cutter *k, u32 c)
{
    buf b = {0};
    if (!fold_text(c, &b)) k->bad = true;
    for (usize at = 0; at < b.n;) {
        u32 x = utf8_next(buf_view(&b), &at), kind = kind_of(x);
        feed(k, kind << KIND_SHIFT | x);
    }
    buf_free(&b);
}

static u32 next_char(str s, usize *at)
{
    const u8 *p = (const u8 *)s.p + *at;
    if (*p < 0x80) return ++*at, *p;
    if (*p >= 0xE1 && *p <= 0xEC && s.n - *at >= 3 && (p[1] & 0xC0) == 0x80 &&
        (p[2] & 0xC0) == 0x80) /* no surrogates, no overlong */
        return *at += 3, (u32)(*p & 15) << 12 | (u32)(p[1] & 63) << 6 | (p[2] & 63);
    return utf8_next(s, at);
}

err terms_of(str text, bool query, terms *out)
{
    pthread_once(&lists_once, lists_make);
    usize before = out->n;
    cutter k;
    memset(&k, 0, offsetof(cutter, c));
    k.out = out, k.text = text, k.query = query;
    for (; k.at < text.n && !k.bad; k.place++) {
        u32 c = next_char(text, &k.at), entry = fold(c);
        if (entry >> KIND_SHIFT == FAILED)
            k.bad = true;
        else if (entry >> KIND_SHIFT == EXPAND)
            feed_expanded(&k, c);
        else if (entry >> KIND_SHIFT == BREAK && joins(&k, c)) {
            if (c != ',') feed(&k, (u32)WORD << KIND_SHIFT | '\'');
        } else
            feed(&k, entry);
    }
    end_run(&k, true);
    if (k.bad) {
        out->n = before;
        return err_new(ERR_NOMEM, "out of memory for the terms of a text");
    }
    for (usize i = before; query && !k.longer && i < out->n; i++) out->t[i].field = 2;
    return OK;
}

void terms_free(terms *t)
{
    mem_free(t->t);
    *t = (terms){0};
}
