/* SPDX-License-Identifier: Apache-2.0
 * gpu-probe [--trials N] [--json FILE]: how a GPU's matrix instructions add. Which model of the sum
 * inside one mma.sync fits all results, whether a result depends on its place or on operands that
 * are not its own, and whether wgmma has the bits of mma.sync for every N, with A from registers or
 * shared memory, and with scale-D = 0 against zero accumulators. A float64 sum on the host tells a
 * wrong layout from another arithmetic. docs/NUMERICS.md keeps the verdicts. */
#include "bench/probe_kernels.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

using probe::STEPS;
using probe::VARIANTS;
typedef std::vector<float> floats;

enum { NORMAL, WIDE, CANCEL, DENORMAL, SPARSE, FILLS };
static const char *const fill_name[FILLS] = {"normal", "wide", "cancel", "denormal", "sparse"};

static const char *json_path;
static std::vector<std::string> json; /* members of the object, in order */

static void write_json(const char *error) {
    FILE *f = json_path ? fopen(json_path, "w") : NULL;
    if (!f)
        return;
    fprintf(f, "{");
    for (const std::string &s : json)
        fprintf(f, "%s,\n ", s.c_str());
    fprintf(f, "\"error\":\"%s\"}\n", error);
    fclose(f);
}

static void check(cudaError_t e, const char *what) {
    if (e == cudaSuccess)
        return;
    printf("gpu-probe: error: %s: %s\n", what, cudaGetErrorString(e));
    write_json(cudaGetErrorString(e));
    exit(4);
}

/* ---- numbers ---- */

static uint64_t state = 1;
static uint64_t draw() { /* splitmix64 (Steele et al., 2014) */
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static float normal() {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += (double)(draw() >> 11) * 0x1p-53;
    return (float)sum;
}

/* To the instruction's type and back, to nearest even. */
static float narrow(int type, float x) {
    const probe_format *f = &probe_formats[type];
    if (!isfinite(x) || x == 0)
        return x;
    int e;
    frexpf(x, &e);
    e = e - 1 < f->least ? f->least : e - 1;
    return (float)ldexp(nearbyint(ldexp((double)x, f->frac - e)), e - f->frac);
}

static float number(int type, int fill) {
    const int span = type == PROBE_F16 ? 5 : 20;
    float x = normal();
    switch (fill) {
    case WIDE: return narrow(type, ldexpf(x, (int)(draw() % (2 * span)) - span));
    case DENORMAL: return narrow(type, ldexpf(x, type == PROBE_F16 ? -16 : -70));
    case SPARSE: return draw() % 3 ? narrow(type, x) : (draw() & 1 ? 0.0f : -0.0f);
    default: return narrow(type, x);
    }
}

/* Rows of `k` numbers. Under CANCEL the second half of a's row is the first with another sign, of
 * b's the same, but for one element each. */
static void fill_rows(floats &x, int type, int fill, int k, bool negative) {
    for (size_t i = 0; i < x.size(); i++) {
        const size_t column = i % (size_t)k;
        x[i] = number(type, fill);
        if (fill == CANCEL && column >= (size_t)k / 2 && draw() % 8)
            x[i] = negative ? -x[i - k / 2] : x[i - k / 2];
        if (fill == DENORMAL && !negative && type != PROBE_F16 && draw() % 4 == 0)
            x[i] = narrow(type,
                          ldexpf(x[i], -60)); /* a denormal operand, and products below 2^-149 */
    }
}

static void fill_accumulators(floats &c, int fill) {
    for (float &v : c)
        v = fill == DENORMAL ? ldexpf(normal(), -135)
            : fill == WIDE   ? ldexpf(normal(), (int)(draw() % 20) - 10)
            : draw() % 8     ? normal()
                             : 0.0f;
}

static bool same(float a, float b) {
    return memcmp(&a, &b, 4) == 0 || (a == 0 && b == 0) || (isnan(a) && isnan(b));
}

/* ---- memory ---- */

struct device_floats {
    float *p;
    size_t n;
    explicit device_floats(size_t count) : p(NULL), n(count) {
        check(cudaMalloc(&p, n * 4), "cudaMalloc");
    }
    ~device_floats() {
        cudaFree(p);
    }
    void put(const floats &x) {
        check(cudaMemcpy(p, x.data(), n * 4, cudaMemcpyHostToDevice), "copy to the device");
    }
    void get(floats &x) {
        check(cudaMemcpy(x.data(), p, n * 4, cudaMemcpyDeviceToHost), "copy from the device");
    }
};

struct mma_batch {
    int type, trials, k;
    floats a, b, c, d;
    mma_batch(int t, int n)
        : type(t), trials(n), k(probe_k[t]), a((size_t)n * 16 * k), b((size_t)n * 8 * k),
          c((size_t)n * 128), d((size_t)n * 128) {
    }
    void fill(int how) {
        fill_rows(a, type, how, k, true);
        fill_rows(b, type, how, k, false);
        fill_accumulators(c, how);
    }
    const float *row(int trial, int m) const {
        return &a[((size_t)trial * 16 + m) * k];
    }
    const float *column(int trial, int n) const {
        return &b[((size_t)trial * 8 + n) * k];
    }
    size_t at(int trial, int m, int n) const {
        return (size_t)trial * 128 + m * 8 + n;
    }
    void run() {
        device_floats da(a.size()), db(b.size()), dc(c.size()), dd(d.size());
        da.put(a);
        db.put(b);
        dc.put(c);
        if (type == PROBE_BF16)
            probe::mma_trials<PROBE_BF16><<<trials, 32>>>(da.p, db.p, dc.p, dd.p);
        else if (type == PROBE_F16)
            probe::mma_trials<PROBE_F16><<<trials, 32>>>(da.p, db.p, dc.p, dd.p);
        else
            probe::mma_trials<PROBE_TF32><<<trials, 32>>>(da.p, db.p, dc.p, dd.p);
        check(cudaGetLastError(), "launch of mma.sync");
        check(cudaDeviceSynchronize(), "mma.sync");
        dd.get(d);
    }
};

/* Elements further from the float64 sum than any fp32 sum of these terms can be. */
static int64_t wrong(const mma_batch &m) {
    int64_t n = 0;
    for (int t = 0; t < m.trials; t++)
        for (int i = 0; i < 128; i++) {
            const float *a = m.row(t, i / 8), *b = m.column(t, i % 8),
                        c = m.c[m.at(t, i / 8, i % 8)];
            double sum = c, size = fabs((double)c);
            for (int k = 0; k < m.k; k++) {
                sum += (double)a[k] * b[k];
                size += fabs((double)a[k] * b[k]);
            }
            n += !(fabs(sum - m.d[m.at(t, i / 8, i % 8)]) <= size * 0x1p-17 + 0x1p-126);
        }
    return n;
}

/* ---- models ---- */

static std::string describe(const probe_model &m) {
    char s[200];
    static const char *const kinds[] = {"", "fma chain, k ascending", "pairwise tree",
                                        "double, rounded once"};
    if (m.kind)
        snprintf(s, sizeof s, "%s%s", kinds[m.kind], m.c_last ? ", accumulator last" : "");
    else
        snprintf(s, sizeof s, "aligned sums of %d products, %d fraction bits, %s%s, %s%s", m.group,
                 m.bits, m.normalized ? "normalized, " : "", m.floor ? "cut down" : "cut to zero",
                 m.round ? "rounded to nearest" : "rounded to zero",
                 m.c_last ? ", accumulator last" : "");
    return s;
}

/* Models that failed are tried on the first trials only, to know how often they fit. */
static void try_models(const mma_batch &m, probe_model *p, int n) {
    for (int t = 0; t < m.trials; t++)
        for (int j = 0; j < n; j++) {
            if (p[j].gone && t >= 24)
                continue;
            for (int i = t % 8; i < 128; i += 8) {
                const float c = m.c[m.at(t, i / 8, i % 8)];
                float want = probe_predict(&p[j], m.type, m.row(t, i / 8), m.column(t, i % 8), c);
                bool fits = same(want, m.d[m.at(t, i / 8, i % 8)]);
                p[j].tried++;
                p[j].same += fits;
                if (!fits && !p[j].gone)
                    p[j].gone = t + 1;
            }
        }
}

static void report_models(int type, probe_model *p, int n) {
    std::string list;
    int fit = 0, best = 0;
    for (int j = 0; j < n; j++) {
        double share = (double)p[j].same / (double)(p[j].tried ? p[j].tried : 1);
        if ((double)p[best].same / (double)p[best].tried < share)
            best = j;
        if (p[j].gone)
            continue;
        printf("  %s: fits all %lld results: %s\n", probe_type_name[type], (long long)p[j].tried,
               describe(p[j]).c_str());
        list += std::string(fit++ ? "," : "") + "\"" + describe(p[j]) + "\"";
    }
    printf("  %s: %d of %d models fit; the best fits %.3f%%: %s\n", probe_type_name[type], fit, n,
           100.0 * (double)p[best].same / (double)p[best].tried, describe(p[best]).c_str());
    for (int j = 0; j < 4; j++)
        printf("  %s: %.3f%% fit %s\n", probe_type_name[type],
               100.0 * (double)p[j].same / (double)p[j].tried, describe(p[j]).c_str());
    json.push_back(std::string("\"mma_") + probe_type_name[type] + "_fits\":[" + list + "]");
    json.push_back(std::string("\"mma_") + probe_type_name[type] + "_best\":\"" +
                   describe(p[best]) + "\"");
}

/* ---- places ---- */

/* The same operands everywhere: all 128 results must agree. */
static int64_t by_place(int type, int trials) {
    int64_t n = 0;
    for (int fill = 0; fill < FILLS; fill++) {
        mma_batch m(type, trials);
        m.fill(fill);
        for (int t = 0; t < trials; t++) {
            for (int r = 1; r < 16; r++)
                memcpy((float *)m.row(t, r), m.row(t, 0), (size_t)m.k * 4);
            for (int q = 1; q < 8; q++)
                memcpy((float *)m.column(t, q), m.column(t, 0), (size_t)m.k * 4);
            for (int i = 1; i < 128; i++)
                m.c[(size_t)t * 128 + i] = m.c[(size_t)t * 128];
        }
        m.run();
        for (int t = 0; t < trials; t++)
            for (int i = 1; i < 128; i++)
                n += memcmp(&m.d[(size_t)t * 128 + i], &m.d[(size_t)t * 128], 4) != 0;
    }
    return n;
}

/* Odd trials keep one row, one column and their accumulator of the even one before; all else is
 * other numbers, infinities and NaN. */
static int64_t by_others(int type, int trials) {
    int64_t n = 0;
    for (int fill = 0; fill < FILLS; fill++) {
        mma_batch m(type, trials & ~1);
        m.fill(fill);
        for (int t = 1; t < m.trials; t += 2) {
            const int r = t / 2 % 16, q = t / 2 % 8;
            for (int i = 0; i < 16 * m.k && t % 4 == 1; i++)
                m.a[(size_t)t * 16 * m.k + i] = draw() % 4 ? INFINITY : NAN;
            memcpy((float *)m.row(t, r), m.row(t - 1, r), (size_t)m.k * 4);
            memcpy((float *)m.column(t, q), m.column(t - 1, q), (size_t)m.k * 4);
            m.c[m.at(t, r, q)] = m.c[m.at(t - 1, r, q)];
        }
        m.run();
        for (int t = 1; t < m.trials; t += 2) {
            const int r = t / 2 % 16, q = t / 2 % 8;
            n += memcmp(&m.d[m.at(t, r, q)], &m.d[m.at(t - 1, r, q)], 4) != 0;
        }
    }
    return n;
}

/* Share of results that change when the k axis is turned round inside groups of that size. */
static double by_order(int type, int trials, int group) {
    mma_batch m(type, trials), v(type, trials);
    int64_t n = 0;
    m.fill(WIDE);
    v.c = m.c;
    for (int t = 0; t < trials; t++)
        for (int k = 0; k < m.k; k++) {
            const int from = k / group * group + group - 1 - k % group;
            for (int r = 0; r < 16; r++)
                ((float *)v.row(t, r))[k] = m.row(t, r)[from];
            for (int q = 0; q < 8; q++)
                ((float *)v.column(t, q))[k] = m.column(t, q)[from];
        }
    m.run();
    v.run();
    for (size_t i = 0; i < m.d.size(); i++)
        n += !same(m.d[i], v.d[i]);
    return (double)n / (double)m.d.size();
}

static void probe_type(int type, int trials) {
    std::vector<probe_model> models(PROBE_MODELS);
    const int n = probe_models(models.data());
    int64_t off = 0;
    for (int fill = 0; fill < FILLS; fill++) {
        mma_batch m(type, trials);
        m.fill(fill);
        m.run();
        int64_t w = wrong(m);
        off += w;
        printf("  %s %s: %d trials, %lld results far from float64\n", probe_type_name[type],
               fill_name[fill], trials, (long long)w);
        try_models(m, models.data(), n);
    }
    report_models(type, models.data(), n);
    const int64_t place = by_place(type, trials / 4), others = by_others(type, trials / 4);
    printf("  %s: %lld results depend on their place, %lld on other operands\n",
           probe_type_name[type], (long long)place, (long long)others);
    char s[400];
    snprintf(s, sizeof s,
             "\"mma_%s\":{\"wrong\":%lld,\"by_place\":%lld,\"by_others\":%lld,"
             "\"reversed_in_2\":%.5f,\"reversed_in_4\":%.5f,\"reversed_in_8\":%.5f}",
             probe_type_name[type], (long long)off, (long long)place, (long long)others,
             by_order(type, trials / 4, 2), by_order(type, trials / 4, 4),
             by_order(type, trials / 4, 8));
    json.push_back(s);
    printf("  %s\n", s);
    fflush(stdout);
}

static void probe_s8(int trials) {
    std::vector<int8_t> a((size_t)trials * 512), b((size_t)trials * 256);
    std::vector<int32_t> c((size_t)trials * 128), d(c.size());
    int8_t *da, *db;
    int32_t *dc, *dd;
    int64_t bad = 0;
    for (int8_t &v : a)
        v = (int8_t)draw();
    for (int8_t &v : b)
        v = (int8_t)draw();
    for (int32_t &v : c)
        v = (int32_t)draw() >> 8;
    check(cudaMalloc(&da, a.size()), "cudaMalloc");
    check(cudaMalloc(&db, b.size()), "cudaMalloc");
    check(cudaMalloc(&dc, c.size() * 4), "cudaMalloc");
    check(cudaMalloc(&dd, d.size() * 4), "cudaMalloc");
    check(cudaMemcpy(da, a.data(), a.size(), cudaMemcpyHostToDevice), "copy");
    check(cudaMemcpy(db, b.data(), b.size(), cudaMemcpyHostToDevice), "copy");
    check(cudaMemcpy(dc, c.data(), c.size() * 4, cudaMemcpyHostToDevice), "copy");
    probe::s8_trials<<<trials, 32>>>(da, db, dc, dd);
    check(cudaGetLastError(), "launch of mma.sync s8");
    check(cudaMemcpy(d.data(), dd, d.size() * 4, cudaMemcpyDeviceToHost), "mma.sync s8");
    for (size_t i = 0; i < d.size(); i++) {
        int32_t sum = c[i];
        for (int k = 0; k < 32; k++)
            sum += a[i / 8 * 32 + (size_t)k] * b[(i / 128 * 8 + i % 8) * 32 + (size_t)k];
        bad += sum != d[i];
    }
    printf("  s8: %lld of %zu results differ from the integer sum\n", (long long)bad, d.size());
    json.push_back("\"mma_s8_wrong\":" + std::to_string(bad));
    cudaFree(da), cudaFree(db), cudaFree(dc), cudaFree(dd);
}

/* ---- wgmma ---- */

struct wgmma_count {
    int64_t results, wrong[VARIANTS], differ[VARIANTS];
};

template <int N>
static void compare_variants(const floats &a, const floats &b, const floats &c, const floats &d,
                             int trials, wgmma_count *n) {
    const int K = 16 * STEPS;
    for (int t = 0; t < trials; t++)
        for (int i = 0; i < 64 * N; i++) {
            const float *x = &a[((size_t)t * 64 + i / N) * K], *y = &b[((size_t)t * N + i % N) * K];
            const float *got = &d[(size_t)t * VARIANTS * 64 * N + i];
            double sum = 0, size = 0, acc = c[(size_t)t * 64 * N + i];
            for (int k = 0; k < K; k++) {
                sum += (double)x[k] * y[k];
                size += fabs((double)x[k] * y[k]);
            }
            n->results++;
            for (int v = 0; v < VARIANTS; v++) {
                const float g = got[(size_t)v * 64 * N], *base = got + (v < 3 ? 0 : 4 * 64 * N);
                double want = sum + (v < 3 ? acc : 0);
                n->wrong[v] += !(fabs(want - g) <= (size + fabs(acc)) * 0x1p-15 + 0x1p-126);
                n->differ[v] += memcmp(&g, base, 4) != 0;
            }
        }
}

template <int N, int TYPE> static void probe_wgmma(int trials) {
    const size_t shared = sizeof(probe::wgmma_smem<N, TYPE>);
    wgmma_count n = {};
    check(cudaFuncSetAttribute(probe::wgmma_trials<N, TYPE>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
          "shared memory of wgmma");
    for (int fill = 0; fill < FILLS; fill++) {
        floats a((size_t)trials * 64 * 16 * STEPS), b((size_t)trials * N * 16 * STEPS);
        floats c((size_t)trials * 64 * N), d(c.size() * VARIANTS);
        fill_rows(a, TYPE, fill, 16, true);
        fill_rows(b, TYPE, fill, 16, false);
        fill_accumulators(c, fill);
        device_floats da(a.size()), db(b.size()), dc(c.size()), dd(d.size());
        da.put(a);
        db.put(b);
        dc.put(c);
        probe::wgmma_trials<N, TYPE><<<trials, 128, shared>>>(da.p, db.p, dc.p, dd.p);
        check(cudaGetLastError(), "launch of wgmma");
        check(cudaDeviceSynchronize(), "wgmma");
        dd.get(d);
        compare_variants<N>(a, b, c, d, trials, &n);
    }
    std::string s = std::string("\"wgmma_") + probe_type_name[TYPE] + "_n" + std::to_string(N) +
                    "\":{\"results\":" + std::to_string(n.results);
    printf("  wgmma %s N=%d, %lld results:", probe_type_name[TYPE], N, (long long)n.results);
    for (int v = 0; v < VARIANTS; v++) {
        printf(" %s %lld wrong %lld differ;", probe::variant_name[v], (long long)n.wrong[v],
               (long long)n.differ[v]);
        s += std::string(",\"") + probe::variant_name[v] +
             "\":{\"wrong\":" + std::to_string(n.wrong[v]) +
             ",\"differ\":" + std::to_string(n.differ[v]) + "}";
    }
    printf("\n");
    fflush(stdout);
    json.push_back(s + "}");
}

template <int TYPE> static void probe_wgmma_all(int trials) {
    probe_wgmma<8, TYPE>(trials);
    probe_wgmma<16, TYPE>(trials);
    probe_wgmma<32, TYPE>(trials);
    probe_wgmma<64, TYPE>(trials / 2 + 1);
    probe_wgmma<128, TYPE>(trials / 4 + 1);
    probe_wgmma<256, TYPE>(trials / 8 + 1);
}

static void usage() {
    fprintf(stderr, "usage: gpu-probe [--trials N] [--json FILE]\n");
    exit(2);
}

int main(int argc, char **argv) {
    int trials = 2000, devices = 0;
    cudaDeviceProp card;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && !strcmp(argv[i], "--trials"))
            trials = (int)strtol(argv[++i], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--json"))
            json_path = argv[++i];
        else
            usage();
    }
    if (trials < 8)
        usage();
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("gpu-probe: no GPU here\n");
        return 3;
    }
    check(cudaGetDeviceProperties(&card, 0), "device");
    printf("matrix instructions of %s (sm_%d%d)\n", card.name, card.major, card.minor);
    json.push_back(std::string("\"card\":\"") + card.name + "\"");
    json.push_back("\"sm\":" + std::to_string(card.major * 10 + card.minor));
    for (int type = 0; type < PROBE_TYPES; type++) {
        probe_type(type, trials);
        write_json("");
    }
    probe_s8(trials / 4);
    write_json("");
    if (card.major == 9) {
        probe_wgmma_all<PROBE_BF16>(trials / 50 + 2);
        probe_wgmma_all<PROBE_F16>(trials / 50 + 2);
        write_json("");
    }
    return 0;
}
