/* rag/claims.c - what must not be wrong in an answer: its figures with their units of measure, its names and codes.
 *
 * A figure is compared by value, so "10,000원", "1만 원" and "10000" are one; measures are compared by what they mean (퍼센트,
 * %, percent) and one that is unknown or absent agrees with all, since tables keep theirs in the header. Dates, times and
 * ranges count as their parts. English number words are figures; Korean numerals only in a source, where "두 번" supports
 * "2번": in an answer they are words like others. Codes (TL-300, E-07) are compared whole.
 *
 * Not here: arithmetic. A figure that follows from others but is not written is not in the text. */
#include "rag/answer.h"
#include <math.h>
#include <stdlib.h>

enum { RUN_BYTES = 96 };
static const struct {
    const char *word;
    u16 measure;
} measures[] = {/* the longest that matches counts */
                {"퍼센트", 1},      {"프로", 1},        {"%", 1},           {"percent", 1},     {"pct", 1},     {"per cent", 1},
                {"원", 2},          {"won", 2},         {"krw", 2},         {"일", 3},          {"day", 3},     {"days", 3},
                {"개월", 4},        {"달", 4},          {"month", 4},       {"months", 4},      {"년", 5},      {"해", 5},
                {"year", 5},        {"years", 5},       {"시간", 6},        {"hour", 6},        {"hours", 6},   {"h", 6},
                {"hrs", 6},         {"분", 7},          {"minute", 7},      {"minutes", 7},     {"min", 7},     {"초", 8},
                {"second", 8},      {"seconds", 8},     {"sec", 8},         {"s", 8},           {"주", 9},      {"주일", 9},
                {"주간", 9},        {"week", 9},        {"weeks", 9},       {"킬로미터", 10},   {"km", 10},     {"kilometer", 10},
                {"kilometers", 10}, {"kilometres", 10}, {"미터", 11},       {"m", 11},          {"meter", 11},  {"meters", 11},
                {"metres", 11},     {"센티미터", 12},   {"cm", 12},         {"밀리미터", 13},   {"mm", 13},     {"킬로그램", 14},
                {"kg", 14},         {"그램", 15},       {"g", 15},          {"명", 16},         {"사람", 16},   {"인", 16},
                {"people", 16},     {"persons", 16},    {"employees", 16},  {"대", 17},         {"개", 18},     {"회", 19},
                {"번", 19},         {"times", 19},      {"시", 20},         {"월", 21},         {"박", 22},     {"night", 22},
                {"nights", 22},     {"자", 23},         {"글자", 23},       {"characters", 23}, {"장", 24},     {"층", 25},
                {"도", 26},         {"°c", 26},         {"°", 26},          {"점", 27},         {"points", 27}, {"포인트", 28},
                {"건", 29},         {"권", 30},         {"배", 31},         {"조", 32},         {"항", 33},     {"호", 34},
                {"차", 35},         {"gb", 36},         {"기가바이트", 36}, {"mb", 37},         {"v", 38},      {"볼트", 38},
                {"a", 39},          {"세", 40},         {"살", 40},         {"페이지", 41},     {"쪽", 41},     {"평", 42},
                {"리터", 43},       {"l", 43},          {"달러", 44},       {"주년", 45},       {"영업일", 46}};
static const struct {
    const char *word;
    double value;
} number_words[] = {{"two", 2},       {"three", 3},    {"four", 4},     {"five", 5},       {"six", 6},       {"seven", 7},
                    {"eight", 8},     {"nine", 9},     {"ten", 10},     {"eleven", 11},    {"twelve", 12},   {"thirteen", 13},
                    {"fourteen", 14}, {"fifteen", 15}, {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
                    {"twenty", 20},   {"thirty", 30},  {"forty", 40},   {"fifty", 50},     {"sixty", 60},    {"seventy", 70},
                    {"eighty", 80},   {"ninety", 90},  {"hundred", 100}};
static const struct {
    const char *word;
    double value;
} korean_words[] = {{"한", 1},   {"두", 2},   {"세", 3},   {"네", 4},  {"다섯", 5},  {"여섯", 6},
                    {"일곱", 7}, {"여덟", 8}, {"아홉", 9}, {"열", 10}, {"스무", 20}, {"서른", 30}};

static bool put(claims *out, claim c) { return VEC_PUSH(out->c, out->n, out->cap, c); }

static u64 value_hash(double v)
{
    char s[40];
    int n = snprintf(s, sizeof s, "%.12g", v);
    return hash64(s, (usize)n, 0x66696775);
}

static u64 name_hash(str s) { return hash64(s.p, s.n, 0x6e616d65); }

static bool latin(u32 c) { return text_is_letter(c) && !text_is_hangul(c) && !text_is_han(c); }
static bool digit(u32 c) { return c >= '0' && c <= '9'; }

/* the measure that a text begins with */
static u16 measure_at(str s)
{
    usize longest = 0;
    u16 found = 0;
    char low[24];
    usize n = s.n < sizeof low ? s.n : sizeof low;
    for (usize i = 0; i < n; i++) low[i] = s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] + 32) : s.p[i];
    for (usize i = 0; i < COUNT_OF(measures); i++) {
        str w = str_of(measures[i].word);
        if (w.n <= longest || !str_starts((str){low, n}, w)) continue;
        usize end = w.n;
        if (w.p[0] >= 'a' && w.p[0] <= 'z' && end < n && latin(utf8_next((str){low, n}, &end))) continue; /* "m" of "men" */
        longest = w.n;
        found = measures[i].measure;
    }
    return found;
}

typedef struct {
    str text; /* NFKC; circled numbers are gone */
    usize at;
    bool source, first; /* first: no word yet in this sentence */
    claims *out;
    bool bad;
} scan;

static void figure(scan *k, double v, str rest)
{
    if (rest.n && rest.p[0] == ' ') rest.p++, rest.n--;
    k->bad |= !put(k->out, (claim){.hash = value_hash(v), .measure = measure_at(rest), .kind = CLAIM_FIGURE});
}

/* "3만 5천" behind a number: ten thousands and thousands; moves on */
static double multiplied(scan *k, double v)
{
    static const struct {
        const char *word;
        double by;
    } by[] = {{"억", 1e8}, {"만", 1e4}, {"천", 1e3}, {"백만", 1e6}, {"천만", 1e7}};
    usize at = k->at;
    double times = 0;
    usize used = 0;
    for (usize i = 0; i < COUNT_OF(by); i++) {
        str w = str_of(by[i].word);
        if (w.n > used && str_starts((str){k->text.p + at, k->text.n - at}, w)) times = by[i].by, used = w.n;
    }
    if (!used) return v;
    k->at = at + used;
    v *= times;
    at = k->at + (k->at < k->text.n && k->text.p[k->at] == ' ');
    usize end = at;
    double more = 0;
    while (end < k->text.n && end - at < 4 && digit((u8)k->text.p[end])) more = more * 10 + (k->text.p[end++] - '0');
    if (end == at || times < 1e4 || (end < k->text.n && (digit((u8)k->text.p[end]) || k->text.p[end] == ','))) return v;
    k->at = end;
    return v + (str_starts((str){k->text.p + end, k->text.n - end}, S("천")) ? k->at += 3, more * 1000 : more);
}

/* digits with , . : - / between them */
static void numbers(scan *k, str run)
{
    char clean[RUN_BYTES];
    usize n = 0, points = 0;
    bool parts = false;
    for (usize i = 0; i < run.n; i++) {
        bool thousands = run.p[i] == ',' && run.n - i >= 4 && (i + 4 == run.n || !digit((u8)run.p[i + 4]));
        if (thousands) continue;
        points += run.p[i] == '.';
        parts |= !digit((u8)run.p[i]) && run.p[i] != '.';
        clean[n++] = run.p[i];
    }
    parts |= points > 1;
    for (usize i = 0; i < n;) {
        double v = 0, part = 1;
        usize end = i;
        bool point = false;
        for (; end < n && (digit((u8)clean[end]) || (!parts && clean[end] == '.')); end++) {
            if (clean[end] == '.')
                point = true;
            else if (point)
                v += (clean[end] - '0') * (part /= 10);
            else
                v = v * 10 + (clean[end] - '0');
        }
        bool last = end == n;
        if (end > i) {
            if (last) v = multiplied(k, v);
            figure(k, v, last ? (str){k->text.p + k->at, k->text.n - k->at} : (str){"", 0});
        }
        i = end + 1;
    }
}

static bool number_word(str low, double *v)
{
    for (usize i = 0; i < COUNT_OF(number_words); i++)
        if (str_eq(low, str_of(number_words[i].word))) return *v = number_words[i].value, true;
    return false;
}

/* letters, perhaps with digits */
static void word(scan *k, str run, bool digits)
{
    buf low = {0};
    usize upper = 0, letters = 0;
    double v;
    for (usize at = 0; at < run.n;) {
        u32 c = utf8_next(run, &at);
        upper += c >= 'A' && c <= 'Z';
        letters += latin(c);
    }
    if (text_lower(&low, run).code) k->bad = true;
    bool code = digits || (upper == letters && letters > 1);
    if (!digits && number_word(buf_view(&low), &v))
        figure(k, v, (str){k->text.p + k->at, k->text.n - k->at});
    else if (k->source || code || (upper && !k->first && run.n > 1))
        k->bad |= !put(k->out, (claim){.hash = name_hash(buf_view(&low)), .kind = CLAIM_NAME, .code = code});
    if (k->source && !digits) /* "USB-C" holds USB */
        for (usize i = 0, from = 0; i <= low.n; i++)
            if (i == low.n || strchr("-_./&'", low.p[i])) {
                if (i > from && (from || i < low.n))
                    k->bad |= !put(k->out, (claim){.hash = name_hash((str){low.p + from, i - from}), .kind = CLAIM_NAME});
                from = i + 1;
            }
    buf_free(&low);
}

/* "3. ", "3) " and "6.1 " that begin a line of a source number it and say nothing: they support no figure */
static bool line_number(const scan *k, usize from, usize end)
{
    while (from && k->text.p[from - 1] == ' ') from--;
    if (!k->source || (from && k->text.p[from - 1] != '\n') || end >= k->text.n) return false;
    bool space = end + 1 >= k->text.n || k->text.p[end + 1] == ' ' || k->text.p[end + 1] == '\n';
    if (k->text.p[end] == '.' || k->text.p[end] == ')') return space;
    bool point = memchr(k->text.p + from, '.', end - from) != NULL;
    return point && k->text.p[end] == ' ' && !measure_at((str){k->text.p + end + 1, k->text.n - end - 1});
}

/* a run of letters and digits with - _ . / : , between them; a measure behind digits is no part of it */
static void run_at(scan *k)
{
    usize from = k->at, end = from, first_letter = 0;
    bool digits = false, letters = false, starts = digit((u8)k->text.p[from]);
    while (end < k->text.n && end - from < RUN_BYTES - 8) {
        usize next = end;
        u32 c = utf8_next(k->text, &next);
        if (digit(c) || latin(c)) {
            digits |= digit(c);
            if (latin(c) && !letters) letters = true, first_letter = end;
            end = next;
            continue;
        }
        usize after = next;
        u32 d = next < k->text.n ? utf8_next(k->text, &after) : ' ';
        if (c > 0x7F || !strchr("-_./:,&'", (int)c) || !(digit(d) || latin(d)) ||
            (strchr(",:", (int)c) && !(digits && !letters && digit(d))))
            break;
        end = next;
    }
    str run = {k->text.p + from, end - from};
    bool plain = true; /* digits, then letters without a digit among them: "12V", "3rd" */
    for (usize i = first_letter; letters && i < end; i++) plain &= !digit((u8)k->text.p[i]) && k->text.p[i] != '-';
    k->at = end;
    if (!letters && line_number(k, from, end)) return;
    if (!letters)
        numbers(k, run);
    else if (starts && plain) {
        k->at = first_letter;
        numbers(k, (str){run.p, first_letter - from});
        k->at = end > k->at ? end : k->at;
    } else
        word(k, run, digits);
    k->first = false;
}

static void korean_number(scan *k, usize before)
{
    usize prev = before;
    str rest = {k->text.p + before, k->text.n - before};
    if (before) {
        do prev--;
        while (prev && ((u8)k->text.p[prev] & 0xC0) == 0x80);
        if (text_is_hangul(utf8_next(k->text, &prev))) return;
    }
    for (usize i = 0; i < COUNT_OF(korean_words); i++) {
        str w = str_of(korean_words[i].word);
        if (!str_starts(rest, w)) continue;
        str behind = {rest.p + w.n, rest.n - w.n};
        if (behind.n && behind.p[0] == ' ') behind.p++, behind.n--;
        if (measure_at(behind)) figure(k, korean_words[i].value, behind);
    }
}

err claims_of(str text, bool source, claims *out)
{
    buf plain = {0}, wide = {0};
    scan k = {.source = source, .first = true, .out = out};
    for (usize at = 0; at < text.n;) {
        u32 c = utf8_next(text, &at);
        if ((c >= 0x2460 && c <= 0x24FF) || (c >= 0x2776 && c <= 0x2793)) c = ' '; /* clause numbers */
        buf_utf8(&plain, c);
    }
    err bad = text_nfkc(&wide, buf_view(&plain));
    k.text = buf_view(&wide);
    while (!bad.code && k.at < k.text.n) {
        usize next = k.at;
        u32 c = utf8_next(k.text, &next);
        if (digit(c) || latin(c)) {
            run_at(&k);
            continue;
        }
        if (source && text_is_hangul(c)) korean_number(&k, k.at);
        if (c == '.' || c == '!' || c == '?' || c == '\n') k.first = true;
        k.at = next;
    }
    buf_free(&plain);
    buf_free(&wide);
    return bad.code ? bad : k.bad ? err_new(ERR_NOMEM, "out of memory") : OK;
}

bool claims_hold(const claims *s, const claim *c)
{
    for (usize i = 0; i < s->n; i++)
        if (s->c[i].kind == c->kind && s->c[i].hash == c->hash &&
            (c->kind == CLAIM_NAME || !s->c[i].measure || !c->measure || s->c[i].measure == c->measure))
            return true;
    return false;
}

void claims_free(claims *c)
{
    mem_free(c->c);
    *c = (claims){0};
}
