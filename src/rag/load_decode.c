/* rag/load_decode.c - which encoding a text is in, and its characters.
 *
 * The order is by strength of evidence: a byte order mark says it; UTF-8 proves itself, because other encodings almost never
 * are valid UTF-8 by chance; UTF-16 without a mark shows by its zero bytes; what is left in a Korean office is CP949. What
 * fits nothing is refused with the offset of the first byte that does not fit: half-read text would be cited as if it were
 * whole. UTF-8 with a broken byte is named as that, though CP949 might swallow it and give other letters.
 * The width of each character in the original follows from the encoding alone, so no map is kept here.
 * Not here: UTF-32, guessing among the single-byte encodings of Europe (an HTML page may declare one, and is believed), and
 * telling EUC-JP or GB 2312 from CP949, which has the same layout. */
#include "rag/load_canon.h"
#include <ctype.h>
#include <errno.h>
#include <iconv.h>

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------------- */
typedef struct {
    i64 bad;                   /* offset of the first malformed byte, or -1 */
    usize n_high, n_high_good; /* bytes over 0x7F; those of them in well-formed characters */
    usize n_zero;
} utf8_report;

static utf8_report utf8_look(str s)
{
    utf8_report r = {.bad = -1};
    for (usize at = 0; at < s.n;) {
        usize was = at;
        u8 first = (u8)s.p[at];
        u32 c = utf8_next(s, &at);
        if (first < 0x80) {
            r.n_zero += first == 0;
            continue;
        }
        bool good = c != 0xFFFD || at - was == 3;
        r.n_high += at - was;
        r.n_high_good += good ? at - was : 0;
        if (!good && r.bad < 0) r.bad = (i64)was;
    }
    return r;
}

/* ---- UTF-16 ------------------------------------------------------------------------------------------------------------ */
static u32 unit16(const u8 *p, bool big) { return big ? (u32)p[0] << 8 | p[1] : (u32)p[1] << 8 | p[0]; }

/* The character at byte i, and how many bytes; 0 bytes when it is half a character. */
static u32 next16(str s, usize i, bool big, usize *len)
{
    const u8 *p = (const u8 *)s.p;
    *len = 0;
    if (s.n - i < 2) return 0;
    u32 c = unit16(p + i, big);
    if (c < 0xD800 || c > 0xDFFF) {
        *len = 2;
        return c;
    }
    if (c > 0xDBFF || s.n - i < 4) return 0;
    u32 low = unit16(p + i + 2, big);
    if (low < 0xDC00 || low > 0xDFFF) return 0;
    *len = 4;
    return 0x10000 + ((c - 0xD800) << 10 | (low - 0xDC00));
}

static err decode16(str s, usize from, bool big, decoded *out)
{
    for (usize i = from, len; i < s.n; i += len) {
        u32 c = next16(s, i, big, &len);
        if (!len) return err_new(ERR_FORMAT, "UTF-16%s: half a character at byte %zu of %zu", big ? "BE" : "LE", i, s.n);
        buf_utf8(&out->utf8, c);
    }
    out->encoding = big ? "utf-16be" : "utf-16le";
    out->mark = (u32)from;
    return buf_error(&out->utf8);
}

/* Letters, marks and white space that documents are made of: the wrong byte order gives others. */
static bool is_usual(u32 c)
{
    return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c < 0x7F) || (c >= 0xA0 && c < 0x530) ||
           (c >= 0x1100 && c < 0x1200) || (c >= 0x2000 && c < 0x2070) || (c >= 0x3000 && c < 0x3190) ||
           (c >= 0x4E00 && c < 0xA000) || (c >= 0xAC00 && c < 0xD7A4) || (c >= 0xFF00 && c < 0xFFF0);
}

static double usual16(str s, bool big)
{
    usize n = 0, usual = 0, len;
    for (usize i = 0; i < s.n; i += len, n++) {
        u32 c = next16(s, i, big, &len);
        if (!len) return 0;
        usual += is_usual(c);
    }
    return n ? (double)usual / (double)n : 0;
}

/* -1: not UTF-16; else whether big-endian */
static int guess16(str s)
{
    if (s.n < 4 || s.n % 2) return -1;
    double little = usual16(s, false), big = usual16(s, true);
    if (little < 0.9 && big < 0.9) return -1;
    return big > little;
}

/* ---- by iconv ---------------------------------------------------------------------------------------------------------- */
static err decode_iconv(str s, const char *charset, const char *name, decoded *out)
{
    iconv_t cd = iconv_open("UTF-8", charset);
    if (cd == (iconv_t)-1) return err_new(ERR_UNSUPPORTED, "encoding %s: this machine's iconv does not know it", name);
    char *in = (char *)(uintptr_t)s.p, piece[4096];
    usize left = s.n;
    err bad = OK;
    while (left && !out->utf8.bad) {
        char *to = piece;
        usize room = sizeof piece, done = iconv(cd, &in, &left, &to, &room);
        buf_put(&out->utf8, piece, sizeof piece - room);
        if (done == (usize)-1 && errno != E2BIG) {
            bad = err_new(ERR_FORMAT, "%s: no character at byte %zu of %zu (0x%02x)", name, s.n - left, s.n, (u8)*in);
            break;
        }
    }
    iconv_close(cd);
    if (!bad.code) bad = buf_error(&out->utf8);
    out->encoding = name;
    out->mark = 0;
    return bad;
}

/* CP949 accepts nearly any pair of high bytes. Korean text uses the 2,350 syllables of KS X 1001 nearly always; Japanese
 * and Chinese bytes read as CP949 fall among the 8,822 others. */
static bool is_korean_949(str s)
{
    usize n = 0, rare = 0;
    for (usize i = 0; i + 1 < s.n; i++) {
        u8 lead = (u8)s.p[i], trail = (u8)s.p[i + 1];
        if (lead < 0x80) continue;
        n++, i++;
        rare += lead < 0xA1 || trail < 0xA1;
    }
    return n < 8 || rare * 4 <= n;
}

/* ---- the order of evidence --------------------------------------------------------------------------------------------- */
/* A byte order mark decides; true when there was one. */
static bool decode_marked(str s, decoded *out, err *bad)
{
    const u8 *p = (const u8 *)s.p;
    if (s.n >= 4 && ((p[0] == 0xFF && p[1] == 0xFE && !p[2] && !p[3]) || (!p[0] && !p[1] && p[2] == 0xFE && p[3] == 0xFF))) {
        *bad = err_new(ERR_UNSUPPORTED, "encoding utf-32: save the file as UTF-8");
        return true;
    }
    if (s.n >= 2 && ((p[0] == 0xFF && p[1] == 0xFE) || (p[0] == 0xFE && p[1] == 0xFF))) {
        *bad = decode16(s, 2, p[0] == 0xFE, out);
        return true;
    }
    if (s.n < 3 || p[0] != 0xEF || p[1] != 0xBB || p[2] != 0xBF) return false;
    str body = {s.p + 3, s.n - 3};
    utf8_report r = utf8_look(body);
    if (r.bad >= 0)
        *bad =
            err_new(ERR_FORMAT, "marked as UTF-8, but byte %lld (0x%02x) is not UTF-8", (long long)r.bad + 3, (u8)body.p[r.bad]);
    else {
        buf_str(&out->utf8, body);
        out->encoding = "utf-8";
        out->mark = 3;
        *bad = buf_error(&out->utf8);
    }
    return true;
}

static err decode_utf8(str s, decoded *out)
{
    buf_str(&out->utf8, s);
    out->encoding = "utf-8";
    return buf_error(&out->utf8);
}

static err decode_unmarked(str s, utf8_report r, decoded *out)
{
    int big = r.n_zero ? guess16(s) : -1;
    if (big >= 0) return decode16(s, 0, big, out);
    if (r.bad < 0) return decode_utf8(s, out);
    if (r.n_high_good >= 12 && r.n_high_good * 10 >= r.n_high * 9)
        return err_new(ERR_FORMAT, "damaged UTF-8: byte %lld (0x%02x) is not part of a character", (long long)r.bad,
                       (u8)s.p[r.bad]);
    err korean = decode_iconv(s, "CP949", "cp949", out);
    if (!korean.code && is_korean_949(s)) return OK;
    if (korean.code == ERR_NOMEM) return korean;
    buf_reset(&out->utf8);
    return err_new(ERR_FORMAT, "not a text in UTF-8 (byte %lld is 0x%02x), UTF-16 or CP949: %s", (long long)r.bad, (u8)s.p[r.bad],
                   korean.code ? "bytes that no Korean text has" : "as CP949 it would be mostly rare syllables");
}

static err decode_end(err bad, decoded *out)
{
    if (bad.code) buf_free(&out->utf8);
    return bad;
}

err load_decode_text(str s, decoded *out)
{
    err bad;
    *out = (decoded){0};
    if (!decode_marked(s, out, &bad)) bad = decode_unmarked(s, utf8_look(s), out);
    return decode_end(bad, out);
}

err load_decode(str s, buf *utf8, const char **encoding)
{
    decoded d;
    TRY(load_decode_text(s, &d));
    buf_str(utf8, buf_view(&d.utf8));
    buf_free(&d.utf8);
    *encoding = d.encoding;
    return buf_error(utf8);
}

/* ---- what a page declares ---------------------------------------------------------------------------------------------- */
/* Only these: iconv has converters with state, which pages on a disk do not need and attackers like. */
static const struct {
    const char *labels, *charset, *name;
} charsets[] = {
    {" euc-kr ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 korean windows-949 cp949 ms949 uhc x-windows-949 ", "CP949",
     "cp949"},
    {" iso-8859-1 latin1 latin-1 l1 us-ascii ascii windows-1252 cp1252 x-cp1252 ", "CP1252", "windows-1252"},
    {" shift_jis shift-jis sjis x-sjis windows-31j ms_kanji ", "CP932", "shift_jis"},
    {" euc-jp x-euc-jp ", "EUC-JP", "euc-jp"},
    {" gb2312 gbk gb18030 x-gbk cp936 ", "GB18030", "gb18030"},
    {" big5 big5-hkscs cn-big5 x-x-big5 ", "BIG5-HKSCS", "big5"},
    {" windows-1250 cp1250 ", "CP1250", "windows-1250"},
    {" windows-1251 cp1251 ", "CP1251", "windows-1251"},
    {" windows-1253 cp1253 ", "CP1253", "windows-1253"},
    {" windows-1254 cp1254 iso-8859-9 latin5 ", "CP1254", "windows-1254"},
    {" windows-1255 cp1255 ", "CP1255", "windows-1255"},
    {" windows-1256 cp1256 ", "CP1256", "windows-1256"},
    {" windows-1257 cp1257 ", "CP1257", "windows-1257"},
    {" windows-1258 cp1258 ", "CP1258", "windows-1258"},
    {" iso-8859-2 latin2 ", "ISO-8859-2", "iso-8859-2"},
    {" iso-8859-5 ", "ISO-8859-5", "iso-8859-5"},
    {" iso-8859-7 greek ", "ISO-8859-7", "iso-8859-7"},
    {" iso-8859-15 latin-9 latin9 ", "ISO-8859-15", "iso-8859-15"},
    {" koi8-r koi8 ", "KOI8-R", "koi8-r"},
    {" koi8-u ", "KOI8-U", "koi8-u"},
    {" tis-620 windows-874 iso-8859-11 ", "CP874", "windows-874"},
};

/* The value after `charset=` or `encoding=` in the first 4 KiB, lower case, with a space on both sides; false if none. */
static bool declared_charset(str s, char label[48])
{
    usize n = s.n < 4096 ? s.n : 4096;
    for (usize i = 0; i + 9 < n; i++) {
        usize k = !strncasecmp(s.p + i, "charset", 7) ? i + 7 : !strncasecmp(s.p + i, "encoding", 8) ? i + 8 : 0;
        if (!k) continue;
        while (k < n && isspace((u8)s.p[k])) k++;
        if (k >= n || s.p[k++] != '=') continue;
        while (k < n && (isspace((u8)s.p[k]) || s.p[k] == '"' || s.p[k] == '\'')) k++;
        usize len = 0;
        label[len++] = ' ';
        while (k < n && len < 46 && (isalnum((u8)s.p[k]) || (s.p[k] && strchr("-_.:", s.p[k]))))
            label[len++] = (char)tolower((u8)s.p[k++]);
        label[len++] = ' ';
        label[len] = 0;
        if (len > 2) return true;
    }
    return false;
}

err load_decode_html(str s, decoded *out)
{
    err bad;
    char label[48];
    *out = (decoded){0};
    if (decode_marked(s, out, &bad)) return decode_end(bad, out);
    utf8_report r = utf8_look(s);
    if (r.bad >= 0 && !memchr(s.p, 0, s.n) && declared_charset(s, label)) {
        for (usize i = 0; i < COUNT_OF(charsets); i++) {
            if (!strstr(charsets[i].labels, label)) continue;
            bad = decode_iconv(s, charsets[i].charset, charsets[i].name, out);
            if (!bad.code) return OK;
            buf_reset(&out->utf8);
            break; /* declared wrongly: what the bytes themselves say */
        }
    }
    return decode_end(decode_unmarked(s, r, out), out);
}

u32 load_width(const char *encoding, u32 c)
{
    if (encoding[0] == 'u' && encoding[4] == '1') return c > 0xFFFF ? 4 : 2;
    if (encoding[0] == 'c') return c < 0x80 ? 1 : 2;
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}
