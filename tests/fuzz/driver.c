/* SPDX-License-Identifier: Apache-2.0
 * A main for fuzz targets without libFuzzer:
 *
 *     NAME_fuzz [-mutate N] [-seed S] [-only K] [-write FILE] PATH...
 *
 * runs the target over every file (folders are entered) and over N mutations of each. Mutation K
 * of a file is a function of (its bytes, S, K) alone, so that the line printed when the target
 * dies replays it. An input that takes ten seconds is reported as a hang. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

enum { HANG_SECONDS = 10, GROWTH = 4096 };

typedef struct {
    uint8_t *p;
    size_t n, cap;
} bytes;

static struct {
    const char *program, *write_to;
    long mutations, seed, only; /* only: -1 all, 0 the file itself */
    long inputs;
    char replay[1024]; /* written before an input is run: a dying program only prints it */
} run = {.seed = 1, .only = -1};

static void say_replay(void) {
    if (write(STDERR_FILENO, run.replay, strlen(run.replay)) < 0)
        _exit(1);
}

static void on_signal(int sig) {
    static const char hang[] = "the target hangs\n";
    if (sig == SIGALRM && write(STDERR_FILENO, hang, sizeof hang - 1) < 0)
        _exit(1);
    say_replay();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void watch_for_death(void) {
    signal(SIGALRM, on_signal);
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(say_replay);
        return;
    }
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
}

/* splitmix64 */
static uint64_t draw(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(uint64_t *s, size_t n) {
    return n ? (size_t)(draw(s) % n) : 0;
}

static uint64_t hash(const uint8_t *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

typedef void mutate_fn(bytes *b, uint64_t *s);

static void flip_bit(bytes *b, uint64_t *s) {
    if (b->n)
        b->p[below(s, b->n)] ^= (uint8_t)(1u << below(s, 8));
}

static void set_byte(bytes *b, uint64_t *s) {
    static const uint8_t loved[] = "\0\x01\x7f\x80\xff\"\\{}[]:,-+.eE019 \n\tu<>|/'";
    if (b->n)
        b->p[below(s, b->n)] = draw(s) % 2 ? loved[below(s, sizeof loved)] : (uint8_t)draw(s);
}

static void cut_end(bytes *b, uint64_t *s) {
    b->n = below(s, b->n + 1);
}

static void delete_range(bytes *b, uint64_t *s) {
    size_t at = below(s, b->n), k = below(s, 1 + (draw(s) % 2 ? 8 : b->n - at));
    k = k > b->n - at ? b->n - at : k;
    memmove(b->p + at, b->p + at + k, b->n - at - k);
    b->n -= k;
}

static void insert(bytes *b, size_t at, const uint8_t *what, size_t k) {
    if (k > b->cap - b->n)
        return;
    memmove(b->p + at + k, b->p + at, b->n - at);
    memcpy(b->p + at, what, k);
    b->n += k;
}

static void insert_noise(bytes *b, uint64_t *s) {
    uint8_t noise[8];
    size_t k = 1 + below(s, sizeof noise);
    for (size_t i = 0; i < k; i++)
        noise[i] = (uint8_t)draw(s);
    insert(b, below(s, b->n + 1), noise, k);
}

static void copy_range(bytes *b, uint64_t *s) {
    uint8_t piece[512];
    size_t from = below(s, b->n), k = below(s, sizeof piece + 1);
    k = k > b->n - from ? b->n - from : k;
    if (k == 0)
        return;
    memcpy(piece, b->p + from, k);
    if (draw(s) % 2)
        insert(b, below(s, b->n + 1), piece, k);
    else
        memmove(b->p + below(s, b->n - k + 1), piece, k);
}

/* Numbers that lengths and counts in binary and text headers like to be. */
static void set_number(bytes *b, uint64_t *s) {
    static const uint64_t loved[] = {0,
                                     1,
                                     0x7fffffff,
                                     0x80000000u,
                                     0xffffffffu,
                                     0x7fffffffffffffff,
                                     0x8000000000000000u,
                                     0xffffffffffffffffu,
                                     0x100000000u};
    static const char *const words[] = {"-1",         "0",    "1e9",     "99999999999999999999",
                                        "4294967296", "1.5",  "null",    "{}",
                                        "[]",         "\"\"", "\\ud800", "true"};
    uint64_t x = loved[below(s, sizeof loved / sizeof *loved)];
    size_t k = (size_t)1 << below(s, 4);
    if (draw(s) % 2) {
        const char *w = words[below(s, sizeof words / sizeof *words)];
        insert(b, below(s, b->n + 1), (const uint8_t *)w, strlen(w));
    } else if (b->n >= k) {
        memcpy(b->p + below(s, b->n - k + 1), &x, k);
    }
}

static mutate_fn *const mutators[] = {flip_bit,     set_byte,   set_byte,   cut_end,
                                      delete_range, set_number, copy_range, insert_noise};

/* In a block of exactly its size, so that a read past the end is seen. */
static void run_target(const uint8_t *p, size_t n) {
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    if (n)
        memcpy(exact, p, n);
    alarm(HANG_SECONDS);
    LLVMFuzzerTestOneInput(exact, n);
    alarm(0);
    free(exact);
    run.inputs++;
}

static void write_input(const bytes *b) {
    FILE *f = fopen(run.write_to, "wb");
    if (!f || fwrite(b->p, 1, b->n, f) != b->n || fclose(f) != 0) {
        perror(run.write_to);
        exit(1);
    }
}

static void run_mutation(const char *path, const uint8_t *p, size_t n, long k) {
    bytes b = {.n = n, .cap = n + GROWTH};
    b.p = malloc(b.cap);
    if (!b.p)
        abort();
    if (n)
        memcpy(b.p, p, n);
    uint64_t s = hash(p, n) ^ (uint64_t)run.seed * 0x9e3779b97f4a7c15u ^ (uint64_t)k << 1;
    for (size_t rounds = k ? 1 + below(&s, 4) : 0; rounds > 0; rounds--)
        mutators[below(&s, sizeof mutators / sizeof *mutators)](&b, &s);
    snprintf(run.replay, sizeof run.replay, "\nreplay: %s -seed %ld -only %ld %s\n", run.program,
             run.seed, k, path);
    if (run.write_to)
        write_input(&b);
    run_target(b.p, b.n);
    free(b.p);
}

static void run_file(const char *path, size_t size) {
    FILE *f = fopen(path, "rb");
    uint8_t *p = malloc(size ? size : 1);
    if (!f || !p || fread(p, 1, size, f) != size) {
        perror(path);
        exit(1);
    }
    fclose(f);
    long first = run.only < 0 ? 0 : run.only, last = run.only < 0 ? run.mutations : run.only;
    for (long k = first; k <= last; k++)
        run_mutation(path, p, size, k);
    free(p);
}

static int visible(const struct dirent *e) {
    return e->d_name[0] != '.';
}

static void run_path(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path, (size_t)st.st_size);
        return;
    }
    struct dirent **entry;
    int n = scandir(path, &entry, visible, alphasort);
    for (int i = 0; i < n; i++) {
        char inside[4096];
        snprintf(inside, sizeof inside, "%s/%s", path, entry[i]->d_name);
        run_path(inside);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
}

static long number(const char *text) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || *end || end == text || v < 0) {
        fprintf(stderr, "%s: not a number\n", text);
        exit(2);
    }
    return v;
}

int main(int argc, char **argv) {
    run.program = argv[0];
    watch_for_death();
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (more && strcmp(argv[i], "-mutate") == 0)
            run.mutations = number(argv[++i]);
        else if (more && strcmp(argv[i], "-seed") == 0)
            run.seed = number(argv[++i]);
        else if (more && strcmp(argv[i], "-only") == 0)
            run.only = number(argv[++i]);
        else if (more && strcmp(argv[i], "-write") == 0)
            run.write_to = argv[++i];
        else
            run_path(argv[i]);
    }
    printf("%ld inputs\n", run.inputs);
    return run.inputs == 0;
}
