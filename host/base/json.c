/* SPDX-License-Identifier: Apache-2.0
 * The JSON reader. One pass, nothing recursive: each byte is looked at once, strings eight bytes at
 * a time, and a string without escapes is returned where it stands. */
#include "host/base/json.h"
#include "host/base/err.h"
#include "host/base/num.h"
#include "host/base/utf8.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "first_special counts from the low byte");

enum {
    FEW_KEYS = 8,       /* up to here an object's keys are compared one by one */
    NUMBER_BYTES = 1024 /* longest number whose value is asked for */
};

struct json_seen {
    const char *s;
    uint32_t n, hash;
};

struct json_slot {
    uint32_t hash, index; /* index + 1; 0: free */
};

void json_init(json *j, const char *name, const char *text, size_t n, arena *a) {
    j->name = name;
    j->begin = j->p = text;
    j->end = text + n;
    j->arena = a;
    j->depth = 0;
    j->max_depth = 64;
    j->count = 0;
    j->max_count = 20 * 1000 * 1000;
    j->status = WEFT_OK;
    j->lone_surrogates = false;
    j->key = (json_str){"", 0};
    j->keys = (json_keys){0};
    j->frame[0] = (json_frame){.pending = true};
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        json_fail(j, "starts with a byte order mark; save it as plain UTF-8");
}

bool json_failed(const json *j) {
    return j->status != WEFT_OK;
}

/* Columns count characters, so bytes that continue one are left out. */
static void line_and_column(const json *j, size_t *line, size_t *column) {
    *line = *column = 1;
    for (const char *p = j->begin; p < j->p; p++) {
        if (*p == '\n') {
            ++*line;
            *column = 1;
        } else {
            *column += (*p & 0xc0) != 0x80;
        }
    }
}

void json_fail(json *j, const char *fmt, ...) {
    if (j->status != WEFT_OK)
        return;
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    size_t line, column;
    line_and_column(j, &line, &column);
    j->status = weft_fail(WEFT_BAD_FILE, "%s:%zu:%zu: %s", j->name, line, column,
                          n < 0 ? fmt : what);
}

/* A value was wrong: says which key it belongs to. */
__attribute__((format(printf, 2, 3))) static void fail_value(json *j, const char *fmt, ...) {
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    int n = j->key.n > 100 ? 100 : (int)j->key.n;
    if (j->frame[j->depth].object)
        json_fail(j, "\"%.*s\": %s", n, j->key.s, what);
    else
        json_fail(j, "%s", what);
}

static void fail_byte(json *j, const char *wanted) {
    if (j->p >= j->end)
        json_fail(j, "the text ends where %s should be", wanted);
    else if (*j->p > 0x20 && *j->p < 0x7f)
        json_fail(j, "'%c' where %s should be", *j->p, wanted);
    else
        json_fail(j, "byte 0x%02x where %s should be", (unsigned char)*j->p, wanted);
}

static inline void skip_space(json *j) {
    const char *p = j->p;
    while (p < j->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    j->p = p;
}

/* Strings. */

static inline uint64_t high_bit_where_zero(uint64_t x) {
    return (x - 0x0101010101010101u) & ~x & 0x8080808080808080u;
}

/* From p to the first byte that is no plain ASCII string content. A borrow can only mark bytes
 * behind the first true one, so the lowest mark is right. */
static inline const char *first_special(const char *p, const char *end) {
    const uint64_t ones = 0x0101010101010101u;
    for (; end - p >= 8; p += 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        uint64_t control = (x - ones * 0x20) & ~x;
        uint64_t hit = high_bit_where_zero(x ^ ones * '"') | high_bit_where_zero(x ^ ones * '\\') |
                       ((x | control) & ones * 0x80);
        if (hit)
            return p + __builtin_ctzll(hit) / 8;
    }
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' &&
           *p != '\\')
        p++;
    return p;
}

/* Goes on to the first '"' or '\\'; false and failed at the end, a control or invalid UTF-8. */
static inline bool scan_plain(json *j) {
    const char *p = j->p;
    for (;;) {
        p = first_special(p, j->end);
        if (j->end - p > 1 && (unsigned char)p[0] >= 0xc2 && (unsigned char)p[0] < 0xe0 &&
            (p[1] & 0xc0) == 0x80) { /* most of what is not ASCII, and all of a byte-level vocab */
            p += 2;
            continue;
        }
        uint32_t cp;
        int n = utf8_next(p, j->end, &cp);
        if (n > 1) {
            p += n;
            continue;
        }
        j->p = p;
        if (n == 1 && cp >= 0x20)
            return true;
        if (p >= j->end)
            json_fail(j, "the text ends inside a string");
        else if (n == 0)
            json_fail(j, "invalid UTF-8 (byte 0x%02x)", (unsigned char)*p);
        else
            json_fail(j, "control character 0x%02x in a string; escape it", (unsigned)cp);
        return false;
    }
}

/* Four hexadecimal digits at p, or -1. */
static int32_t hex4(const char *p, const char *end) {
    if (end - p < 4)
        return -1;
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* \uXXXX with p on the 'u'; a high surrogate takes the low one that must follow. */
static int unicode_escape(json *j, char *out) {
    int32_t hi = hex4(j->p + 1, j->end);
    if (hi < 0) {
        json_fail(j, "\\u needs four hexadecimal digits");
        return 0;
    }
    j->p += 5;
    if (hi < 0xd800 || hi > 0xdfff)
        return utf8_put(out, (uint32_t)hi);
    int32_t lo = -1;
    if (hi < 0xdc00 && j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u')
        lo = hex4(j->p + 2, j->end);
    if (lo >= 0xdc00 && lo <= 0xdfff) {
        j->p += 6;
        return utf8_put(out, 0x10000u + ((uint32_t)(hi - 0xd800) << 10) + (uint32_t)(lo - 0xdc00));
    }
    if (j->lone_surrogates)
        return utf8_put(out, 0xfffd);
    json_fail(j, "\\u%04x is half of a surrogate pair", (unsigned)hi);
    return 0;
}

/* One escape with p on the backslash: its bytes go to out, 0 and failed if it is wrong. */
static int escape(json *j, char out[4]) {
    static const char names[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (++j->p >= j->end) {
        json_fail(j, "the text ends inside a string");
        return 0;
    }
    if (*j->p == 'u')
        return unicode_escape(j, out);
    for (const char *e = names; *e; e += 2)
        if (*e == *j->p) {
            out[0] = e[1];
            j->p++;
            return 1;
        }
    fail_byte(j, "an escape (one of \"\\/bfnrtu)");
    return 0;
}

/* An upper bound for the unescaped bytes from p on: up to the closing quote. */
static size_t raw_length(const char *p, const char *end) {
    const char *q = p;
    while (q < end && *q != '"')
        q += *q == '\\' && end - q > 1 ? 2 : 1;
    return (size_t)(q - p);
}

/* The rest of a string that has a backslash at p; `out` NULL checks only. Returns bytes written. */
static size_t unescape(json *j, char *out) {
    size_t n = 0;
    char piece[4];
    while (*j->p != '"') {
        int k = escape(j, piece);
        if (k == 0)
            return 0;
        if (out)
            memcpy(out + n, piece, (size_t)k);
        n += (size_t)k;
        const char *run = j->p;
        if (!scan_plain(j))
            return 0;
        if (out)
            memcpy(out + n, run, (size_t)(j->p - run));
        n += (size_t)(j->p - run);
    }
    return n;
}

/* A string with p behind its opening quote; ends behind the closing one. */
static inline json_str scan_string(json *j, bool keep) {
    const char *s = j->p;
    if (!scan_plain(j))
        return (json_str){"", 0};
    size_t n = (size_t)(j->p - s);
    if (*j->p == '\\') {
        char *copy = NULL;
        if (keep) {
            copy = arena_alloc(j->arena, n + raw_length(j->p, j->end) + 1);
            memcpy(copy, s, n);
        }
        n += unescape(j, copy ? copy + n : NULL);
        if (json_failed(j))
            return (json_str){"", 0};
        s = copy;
    }
    j->p++;
    return (json_str){s, n};
}

/* Keys. The hash is keyed per process, so that nobody can write a file whose keys collide. */

static uint64_t hash_seed(void) {
    static const uint64_t fallback[2] = {0x9e3779b97f4a7c15u, 0xd1b54a32d192ed03u};
    const void *random = (const void *)(uintptr_t)getauxval(AT_RANDOM);
    uint64_t seed;
    memcpy(&seed, random ? random : fallback, sizeof seed);
    return seed;
}

static inline uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline uint64_t load(const char *s, size_t n) {
    uint64_t x = 0;
    memcpy(&x, s, n);
    return x;
}

/* Up to 8 bytes as a number that differs whenever they do, by loads of constant size. */
static inline uint64_t load_tail(const char *s, size_t n) {
    if (n >= 4)
        return load(s, 4) | load(s + n - 4, 4) << 32;
    if (n >= 2)
        return load(s, 2) | load(s + n - 2, 2) << 16;
    return n ? (unsigned char)*s : 0;
}

static uint32_t key_hash(const char *s, size_t n) {
    static uint64_t seed; /* the same value whoever stores it first */
    uint64_t h = __atomic_load_n(&seed, __ATOMIC_RELAXED);
    if (h == 0) {
        h = hash_seed() | 1;
        __atomic_store_n(&seed, h, __ATOMIC_RELAXED);
    }
    const uint64_t odd = h;
    h ^= n * 0x9e3779b97f4a7c15u;
    for (; n > 8; s += 8, n -= 8)
        h = fold(h ^ load(s, 8), odd ^ 0xa0761d6478bd642fu);
    h = fold(h ^ load_tail(s, n), odd ^ 0xe7037ed1a0b428dbu);
    return (uint32_t)(h ^ h >> 32);
}

static bool same_key(const struct json_seen *k, uint32_t hash, json_str key) {
    return k->hash == hash && k->n == key.n && memcmp(k->s, key.s, key.n) == 0;
}

static void slot_put(json_keys *k, uint32_t index) {
    uint32_t hash = k->key[index].hash, i = hash & (k->nslots - 1);
    while (k->slot[i].index)
        i = (i + 1) & (k->nslots - 1);
    k->slot[i] = (struct json_slot){hash, index + 1};
    k->filled++;
}

/* Fresh slots for the live keys alone: at most a quarter full, so that the next rebuild is paid for
 * by as many insertions. Those of outer objects are needed again when the inner one is closed. */
static void slots_rebuild(json *j) {
    json_keys *k = &j->keys;
    uint32_t want = 64;
    while (want < 4 * (uint64_t)k->n)
        want *= 2;
    if (want > k->nslots) {
        k->slot = arena_alloc(j->arena, sizeof *k->slot * want);
        k->nslots = want;
    } else {
        memset(k->slot, 0, sizeof *k->slot * k->nslots);
    }
    k->filled = 0;
    for (uint32_t i = 0; i < k->n; i++)
        slot_put(k, i);
}

static void keys_push(json *j, json_str key, uint32_t hash) {
    json_keys *k = &j->keys;
    if (k->n == k->cap) {
        uint32_t cap = k->cap ? 2 * k->cap : 32;
        struct json_seen *more = arena_alloc(j->arena, sizeof *more * cap);
        if (k->n)
            memcpy(more, k->key, sizeof *more * k->n);
        k->key = more;
        k->cap = cap;
    }
    k->key[k->n++] = (struct json_seen){key.s, (uint32_t)key.n, hash};
}

static bool seen_few(const json_keys *k, uint32_t first, uint32_t hash, json_str key) {
    for (uint32_t i = first; i < k->n; i++)
        if (same_key(&k->key[i], hash, key))
            return true;
    return false;
}

static bool seen_many(const json_keys *k, uint32_t first, uint32_t hash, json_str key) {
    for (uint32_t i = hash & (k->nslots - 1); k->slot[i].index; i = (i + 1) & (k->nslots - 1)) {
        uint32_t at = k->slot[i].index - 1;
        if (k->slot[i].hash == hash && at >= first && at < k->n && same_key(&k->key[at], hash, key))
            return true;
    }
    return false;
}

/* Adds the key to the innermost object, or fails if it is there. */
static void keys_add(json *j, json_str key) {
    json_keys *k = &j->keys;
    uint32_t first = j->frame[j->depth].first_key, many = k->n - first;
    if (key.n > UINT32_MAX / 2 || k->n >= UINT32_MAX / 8) {
        json_fail(j, "a key is too long or there are too many");
        return;
    }
    uint32_t hash = key_hash(key.s, key.n);
    bool seen = many <= FEW_KEYS ? seen_few(k, first, hash, key) : seen_many(k, first, hash, key);
    if (seen) {
        json_fail(j, "duplicate key \"%.*s\"", key.n > 100 ? 100 : (int)key.n, key.s);
        return;
    }
    keys_push(j, key, hash);
    if (many + 1 <= FEW_KEYS)
        return;
    uint32_t from = many == FEW_KEYS ? first : k->n - 1; /* the first ones were not in the table */
    if (k->filled + (k->n - from) > k->nslots / 2)
        slots_rebuild(j);
    else
        for (uint32_t i = from; i < k->n; i++)
            slot_put(k, i);
}

/* Values. */

json_kind json_peek(json *j) {
    static const uint8_t kinds[128] = {
        ['{'] = JSON_OBJECT, ['['] = JSON_ARRAY,  ['"'] = JSON_STRING, ['-'] = JSON_NUMBER,
        ['0'] = JSON_NUMBER, ['1'] = JSON_NUMBER, ['2'] = JSON_NUMBER, ['3'] = JSON_NUMBER,
        ['4'] = JSON_NUMBER, ['5'] = JSON_NUMBER, ['6'] = JSON_NUMBER, ['7'] = JSON_NUMBER,
        ['8'] = JSON_NUMBER, ['9'] = JSON_NUMBER, ['t'] = JSON_BOOL,   ['f'] = JSON_BOOL,
        ['n'] = JSON_NULL,
    };
    if (json_failed(j))
        return JSON_NONE;
    skip_space(j);
    if (j->p >= j->end || (unsigned char)*j->p >= 128)
        return JSON_NONE;
    return (json_kind)kinds[(unsigned char)*j->p];
}

/* Starts on a value of any kind; JSON_NONE and failed if there is none. */
static json_kind begin_value(json *j) {
    json_frame *f = &j->frame[j->depth];
    json_kind kind = json_peek(j);
    if (json_failed(j))
        return JSON_NONE;
    if (!f->pending)
        json_fail(j, "no value is due here");
    else if (kind == JSON_NONE)
        fail_byte(j, "a value");
    else if (++j->count > j->max_count)
        json_fail(j, "too many values (limit %" PRIu64 ")", j->max_count);
    f->pending = false;
    return json_failed(j) ? JSON_NONE : kind;
}

static bool begin(json *j, json_kind want) {
    static const char *const words[] = {"nothing",  "an object", "an array", "a string",
                                        "a number", "a boolean", "null"};
    json_kind kind = begin_value(j);
    if (kind != want && kind != JSON_NONE)
        fail_value(j, "%s where %s should be", words[kind], words[want]);
    return !json_failed(j);
}

static void enter(json *j, bool object) {
    if (j->depth >= j->max_depth || j->depth >= JSON_DEPTH_LIMIT) {
        json_fail(j, "nested too deeply (limit %d)", j->depth);
        return;
    }
    j->p++;
    j->frame[++j->depth] = (json_frame){.object = object, .fresh = true, .first_key = j->keys.n};
}

static void leave(json *j) {
    j->p++;
    j->keys.n = j->frame[j->depth].first_key;
    j->depth--;
}

void json_object(json *j) {
    if (begin(j, JSON_OBJECT))
        enter(j, true);
}

void json_array(json *j) {
    if (begin(j, JSON_ARRAY))
        enter(j, false);
}

/* Steps over the comma to the next member of the innermost container, or leaves it. */
static bool next_member(json *j, bool object) {
    json_frame *f = &j->frame[j->depth];
    if (!json_failed(j) && (j->depth == 0 || f->object != object))
        json_fail(j, "no %s is open here", object ? "object" : "array");
    if (!json_failed(j) && f->pending)
        json_skip(j);
    if (json_failed(j))
        return false;
    skip_space(j);
    char close = object ? '}' : ']';
    bool closes = j->p < j->end && *j->p == close, comma = j->p < j->end && *j->p == ',';
    if (closes) {
        leave(j);
        return false;
    }
    if (!f->fresh && !comma) {
        fail_byte(j, object ? "',' or '}'" : "',' or ']'");
        return false;
    }
    if (!f->fresh) {
        j->p++;
        skip_space(j);
    }
    f->fresh = false;
    f->pending = true;
    return true;
}

bool json_key(json *j, json_str *key) {
    *key = (json_str){"", 0};
    if (!next_member(j, true))
        return false;
    if (j->p >= j->end || *j->p != '"') {
        fail_byte(j, "a key");
        return false;
    }
    j->p++;
    json_str s = scan_string(j, true);
    if (!json_failed(j))
        keys_add(j, s);
    skip_space(j);
    if (!json_failed(j) && (j->p >= j->end || *j->p != ':'))
        fail_byte(j, "':'");
    if (json_failed(j))
        return false;
    j->p++;
    j->key = *key = s;
    return true;
}

bool json_item(json *j) {
    return next_member(j, false);
}

json_str json_string(json *j) {
    if (!begin(j, JSON_STRING))
        return (json_str){"", 0};
    j->p++;
    return scan_string(j, true);
}

char *json_text(json *j) {
    json_str s = json_string(j);
    if (memchr(s.s, 0, s.n))
        fail_value(j, "a string with a NUL character");
    return json_dup(j->arena, s);
}

/* Numbers. */

static inline const char *digits(const char *p, const char *end) {
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* Steps over a number, checked against the grammar; *integer: it has no '.' and no exponent. */
static json_str scan_number(json *j, bool *integer) {
    const char *start = j->p;
    *integer = true;
    j->p += *j->p == '-';
    const char *from = j->p;
    j->p = digits(from, j->end);
    if (j->p == from)
        fail_byte(j, "a digit");
    else if (*from == '0' && j->p - from > 1)
        json_fail(j, "a number may not start with a zero");
    if (!json_failed(j) && j->p < j->end && *j->p == '.') {
        *integer = false;
        from = ++j->p;
        j->p = digits(from, j->end);
        if (j->p == from)
            fail_byte(j, "a digit");
    }
    if (!json_failed(j) && j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
        *integer = false;
        j->p++;
        j->p += j->p < j->end && (*j->p == '+' || *j->p == '-');
        from = j->p;
        j->p = digits(from, j->end);
        if (j->p == from)
            fail_byte(j, "a digit");
    }
    return (json_str){start, (size_t)(j->p - start)};
}

/* The value of an integer literal; false if it does not fit. */
static bool int_value(json_str s, int64_t *out) {
    bool minus = *s.s == '-';
    uint64_t v = 0, limit = (uint64_t)INT64_MAX + minus;
    for (size_t i = minus; i < s.n; i++) {
        uint64_t d = (uint64_t)(s.s[i] - '0');
        if (v > (limit - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *out = minus ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

int64_t json_int(json *j, int64_t min, int64_t max) {
    if (!begin(j, JSON_NUMBER))
        return 0;
    const char *at = j->p;
    bool integer;
    int64_t v = 0;
    json_str s = scan_number(j, &integer);
    if (json_failed(j))
        return 0;
    j->p = at; /* messages point at the number */
    int n = s.n > 40 ? 40 : (int)s.n;
    if (!integer)
        fail_value(j, "%.*s where an integer should be", n, s.s);
    else if (!int_value(s, &v) || v < min || v > max)
        fail_value(j, "%.*s is out of range (%" PRId64 " to %" PRId64 ")", n, s.s, min, max);
    j->p = at + s.n;
    return json_failed(j) ? 0 : v;
}

/* Decimals whose digits fit 2^53 and whose power of ten is exact need one correctly rounded
 * operation, so they are right without the library (Clinger's fast path). */
static bool short_decimal(json_str s, double *out) {
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *p = s.s, *end = s.s + s.n;
    bool minus = *p == '-', point = false;
    uint64_t v = 0;
    int exponent = 0, written = 0;
    for (p += minus; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        if (v >> 53)
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
        exponent -= point;
    }
    if (p < end) {
        bool down = *++p == '-';
        p += *p == '-' || *p == '+';
        for (; p < end; p++)
            if ((written = written * 10 + (*p - '0')) > 1000)
                return false;
        exponent += down ? -written : written;
    }
    if (v >> 53 || exponent < -22 || exponent > 22)
        return false;
    double x = exponent < 0 ? (double)v / tens[-exponent] : (double)v * tens[exponent];
    *out = minus ? -x : x;
    return true;
}

double json_double(json *j) {
    if (!begin(j, JSON_NUMBER))
        return 0;
    bool integer;
    double x = 0;
    json_str s = scan_number(j, &integer);
    if (json_failed(j) || short_decimal(s, &x))
        return x;
    if (s.n >= NUMBER_BYTES) {
        fail_value(j, "a number of %zu characters (limit %d)", s.n, NUMBER_BYTES - 1);
        return 0;
    }
    char text[NUMBER_BYTES];
    memcpy(text, s.s, s.n);
    text[s.n] = 0;
    x = num_double(text);
    if (isfinite(x))
        return x;
    fail_value(j, "%.40s is out of range", text);
    return 0;
}

/* The word at p, or failed. */
static bool word(json *j, const char *w) {
    size_t n = strlen(w);
    bool ok = (size_t)(j->end - j->p) >= n && memcmp(j->p, w, n) == 0;
    if (ok)
        j->p += n;
    else
        json_fail(j, "unknown word; one of true, false, null");
    return ok;
}

bool json_bool(json *j) {
    if (!begin(j, JSON_BOOL))
        return false;
    return *j->p == 't' ? word(j, "true") : (word(j, "false"), false);
}

void json_null(json *j) {
    if (begin(j, JSON_NULL))
        word(j, "null");
}

/* Enters a container, steps over anything else. */
static void skip_one(json *j) {
    bool integer;
    switch (begin_value(j)) {
    case JSON_OBJECT: enter(j, true); break;
    case JSON_ARRAY: enter(j, false); break;
    case JSON_STRING:
        j->p++;
        scan_string(j, false);
        break;
    case JSON_NUMBER: scan_number(j, &integer); break;
    case JSON_BOOL: word(j, *j->p == 't' ? "true" : "false"); break;
    case JSON_NULL: word(j, "null"); break;
    case JSON_NONE: break;
    }
}

void json_skip(json *j) {
    int depth = j->depth;
    skip_one(j);
    while (!json_failed(j) && j->depth > depth) {
        json_str key;
        if (j->frame[j->depth].object ? json_key(j, &key) : json_item(j))
            skip_one(j);
    }
}

json_str json_raw(json *j) {
    if (json_failed(j))
        return (json_str){"", 0};
    skip_space(j);
    const char *start = j->p;
    json_skip(j);
    return json_failed(j) ? (json_str){"", 0} : (json_str){start, (size_t)(j->p - start)};
}

weft_status json_done(json *j) {
    if (!json_failed(j) && j->depth == 0 && j->frame[0].pending)
        json_skip(j);
    skip_space(j);
    if (!json_failed(j) && (j->depth > 0 || j->p < j->end))
        fail_byte(j, "the end");
    return j->status;
}

bool json_is(json_str s, const char *w) {
    size_t n = strlen(w);
    return s.n == n && memcmp(s.s, w, n) == 0;
}

char *json_dup(arena *a, json_str s) {
    return arena_copy(a, s.s, s.n);
}
