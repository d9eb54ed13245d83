/* SPDX-License-Identifier: Apache-2.0
 * sample: the chain of docs/SAMPLING.md. sample_scan_k looks at slices of the raw logits, a block
 * each: the best and the sum of e^(x - best), all that a greedy row and its logprob need.
 * sample_chain_k runs a row's chain, a block each (sample_row.cuh); what it decides by are sums of
 * integers, so the tokens are kernels/ref's. Bound by memory: the logits once, and once more for
 * each pass of a stage until few tokens are left. Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/sample_filter.cuh"
#include "kernels/lib/sample_history.cuh"

namespace WEFT_CU_NS {

/* ---- the raw logits ---- */

enum {
    SCAN_WARPS = SAMPLE_SCAN_THREADS / 32,
    SCAN_CHUNKS = SAMPLE_SLICE / SAMPLE_SCAN_THREADS / 8
};

struct sample_scan_smem {
    float most[SCAN_WARPS], sum[SCAN_WARPS];
    int32_t id[SCAN_WARPS];
};

/* The row's scratch: a part for each slice, x, index. */
__host__ __device__ inline int64_t sample_slices(int64_t vocab) {
    return (vocab + SAMPLE_SLICE - 1) / SAMPLE_SLICE;
}
__host__ __device__ inline int64_t sample_slot_bytes(int64_t vocab) {
    return (sample_slices(vocab) * (int64_t)sizeof(sample_part) + vocab * 12 + 63) / 64 * 64;
}

struct op_min_id { /* among candidates; -1 is none */
    __device__ static __forceinline__ int32_t of(int32_t a, int32_t b) {
        return a < 0 || (b >= 0 && b < a) ? b : a;
    }
};

__device__ static int32_t scan_lowest(int32_t id, sample_scan_smem &s) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        id = op_min_id::of(id, __shfl_xor_sync(0xffffffffu, id, d));
    if (threadIdx.x % 32 == 0)
        st_shared(&s.id[threadIdx.x / 32], id);
    __syncthreads();
    for (int i = 0; i < SCAN_WARPS; i++)
        id = op_min_id::of(id, ld_shared(&s.id[i]));
    return id;
}

template <class T>
__global__ void __launch_bounds__(SAMPLE_SCAN_THREADS)
    sample_scan_k(const __grid_constant__ weft_sample_args a, int64_t row0, char *scratch) {
    WEFT_SMEM(sample_scan_smem, s);
    int64_t vocab = a.logits.shape[1], row = row0 + blockIdx.y;
    int64_t first = blockIdx.x * (int64_t)SAMPLE_SLICE + threadIdx.x * CHUNK;
    if (row >= lead_rows(a.rows, a.logits.shape[0]))
        return;
    float v[SCAN_CHUNKS][CHUNK], most = -INFINITY, sum = 0;
    int32_t id = -1;
#pragma unroll
    for (int c = 0; c < SCAN_CHUNKS; c++) {
        int64_t i = first + c * SAMPLE_SCAN_THREADS * CHUNK;
        held<T> h;
        int n = i < vocab ? chunk_size(vocab, i) : 0;
        if (n)
            fetch(h, a.logits, row * a.logits.stride[0] + i, n);
        if (n)
            widen(h, v[c]);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) { /* NaN does not count */
            v[c][j] = j < n && v[c][j] > -INFINITY ? v[c][j] : -INFINITY;
            most = v[c][j] > most ? v[c][j] : most;
        }
    }
    most = block_reduce<op_max, SCAN_WARPS>(most, s.most);
#pragma unroll
    for (int c = 0; c < SCAN_CHUNKS; c++)
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            int32_t i = (int32_t)(first + c * SAMPLE_SCAN_THREADS * CHUNK + j);
            id = most > -INFINITY && v[c][j] == most ? op_min_id::of(id, i) : id;
            sum += v[c][j] == most ? (most > -INFINITY ? 1.0f : 0.0f) : weft_expf(v[c][j] - most);
        }
    id = scan_lowest(id, s);
    sum = block_reduce<op_sum, SCAN_WARPS>(sum, s.sum);
    if (threadIdx.x == 0) {
        sample_part *part = (sample_part *)(scratch + blockIdx.y * sample_slot_bytes(vocab));
        st_global(&part[blockIdx.x].most, most);
        st_global(&part[blockIdx.x].sum, sum);
        st_global(&part[blockIdx.x].id, id);
    }
}

/* ---- the chain ---- */

/* Whether a stage that cuts has something to do. Mirostat stands in for all of them, at the end. */
__device__ static bool sample_cuts(const sample_row &r, int stage) {
    if ((stage == WEFT_STAGE_END) != !!r.p(&weft_sample_params::mirostat))
        return false;
    switch (stage) {
    case WEFT_STAGE_END: return true;
    case WEFT_STAGE_TOP_N_SIGMA: return r.p(&weft_sample_params::top_n_sigma) > 0;
    case WEFT_STAGE_TOP_K:
        return r.p(&weft_sample_params::top_k) > 0 && r.p(&weft_sample_params::top_k) < r.vocab;
    case WEFT_STAGE_TOP_P: return r.p(&weft_sample_params::top_p) < 1;
    case WEFT_STAGE_MIN_P: return r.p(&weft_sample_params::min_p) > 0;
    case WEFT_STAGE_TYPICAL: return r.p(&weft_sample_params::typical_p) < 1;
    case WEFT_STAGE_XTC: return xtc_wanted(r);
    default: return false;
    }
}

__device__ static sample_want sample_cut(sample_row &r, int stage, sample_miro &m) {
    switch (stage) {
    case WEFT_STAGE_END: return sample_mirostat(r, m);
    case WEFT_STAGE_TOP_N_SIGMA: return sample_top_n_sigma(r);
    case WEFT_STAGE_TOP_K: return sample_top_k(r);
    case WEFT_STAGE_TOP_P: return sample_top_p(r);
    case WEFT_STAGE_MIN_P: return sample_min_p(r);
    case WEFT_STAGE_TYPICAL: return sample_typical(r);
    default: sample_xtc(r); return {KEEP_ALL, false, 0, 0, 0};
    }
}

/* Inlined by name: the compiler would rather call it, with the row in local memory. */
__device__ __forceinline__ static void sample_stage(sample_row &r, int stage, sample_miro &m) {
    if (stage == WEFT_STAGE_PENALTIES)
        sample_penalties(r);
    else if (stage == WEFT_STAGE_DRY)
        sample_dry(r);
    else if (stage == WEFT_STAGE_TEMPERATURE)
        sample_temperature(r);
    else if (sample_cuts(r, stage) && r.centre()) {
        sample_keep(r, sample_cut(r, stage, m));
        if (stage == WEFT_STAGE_TYPICAL)
            r.state = SAMPLE_LOOSE;
    }
}

/* The stages, then WEFT_STAGE_END. */
__device__ __forceinline__ static void sample_chain(sample_row &r, sample_miro &m) {
    bool ordered = ld_shared(&r.s.p.order[0]) != 0;
    int stage = -1;
    for (int i = 0; stage != WEFT_STAGE_END && !r.greedy; i++) {
        stage = i == WEFT_STAGES - 1 ? (int)WEFT_STAGE_END
                : ordered            ? ld_shared(&r.s.p.order[i])
                                     : i + 1;
        if (stage >= WEFT_STAGES)
            stage = WEFT_STAGE_END;
        sample_stage(r, stage, m);
    }
}

/* The token. What is left weighs `total`; if that is 0, only the token does. */
__device__ __forceinline__ static int32_t sample_choose(sample_row &r, uint64_t *total) {
    double x;
    sample_miro m = {};
    sample_bias(r);
    sample_chain(r, m);
    *total = 0;
    if (r.greedy || !r.centre())
        return r.best(&x);
    int64_t place = r.draw(total);
    if (r.p(&weft_sample_params::mirostat))
        sample_mirostat_learn(r, m, weft_weight(r.value(place)));
    return r.id_of(place);
}

/* ---- what is reported ---- */

/* Largest raw logit, its lowest id, and the logarithm of the mass relative to it. */
struct sample_raw {
    float most;
    double log_mass;
};

__device__ static sample_raw sample_combine(sample_row &r, const sample_part *part) {
    const int64_t slices = sample_slices(r.vocab);
    double most = -INFINITY, sum = 0;
    uint64_t id = UINT64_MAX;
    for (int64_t i = threadIdx.x; i < slices; i += SAMPLE_THREADS) {
        double v = (double)ld_global(&part[i].most);
        most = v > most ? v : most;
    }
    most = r.all_max(most);
    for (int64_t i = threadIdx.x; i < slices; i += SAMPLE_THREADS) {
        double v = (double)ld_global(&part[i].most), w = (double)ld_global(&part[i].sum);
        uint64_t at = (uint64_t)(int64_t)ld_global(&part[i].id);
        id = v == most && at < id ? at : id; /* -1 is the largest */
        sum += v == most ? w : v > -INFINITY ? w * weft_exp(v - most) : 0;
    }
    id = r.all_min(id);
    sum = r.all(sum, [](double b, double c) { return b + c; });
    r.raw_best = (int32_t)id;
    return sample_raw{(float)most, weft_log(sum)};
}

__device__ static float sample_logprob(const sample_row &r, int32_t id, const sample_raw &raw) {
    if (id < 0)
        return -INFINITY;
    double v = (double)r.logit(id), most = (double)raw.most;
    return (float)((v == most ? 0.0 : v - most) - raw.log_mass);
}

/* The raw logit's bits in the order of descending values. */
__device__ static uint64_t top_key(float v) {
    uint32_t b = weft_f32_bits(v == 0 ? 0.0f : v);
    return b >> 31 ? b : 0x7fffffffu - b;
}

/* The alternative after the last one, by one pass over the row; -1: there is none. */
__device__ static int32_t top_next(const sample_row &r, uint64_t *after) {
    uint64_t next = UINT64_MAX;
    for (int64_t i = threadIdx.x; i < r.vocab; i += SAMPLE_THREADS) {
        float v = r.logit(i);
        uint64_t key = top_key(v) << 32 | (uint64_t)i;
        if (v > -INFINITY && key < next && (*after == UINT64_MAX || key > *after))
            next = key;
    }
    next = *after = r.all_min(next);
    return next == UINT64_MAX ? -1 : (int32_t)(next & 0xffffffff);
}

__device__ static void top_write(const sample_row &r, int64_t i, int32_t id,
                                 const sample_raw &raw) {
    const weft_tensor &t = r.a.top_id, &l = r.a.top_logprob;
    if (weft_has(&t))
        st_global(sample_ints(t, r.row) + i * t.stride[1], id);
    if (weft_has(&l))
        store1(l, r.row * l.stride[0] + i * l.stride[1], sample_logprob(r, id, raw));
}

/* Few candidates, in s.id: each thread places its own. Returns how many there are. */
__device__ static int top_few(const sample_row &r, int m, int n, const sample_raw &raw) {
    for (int i = threadIdx.x; i < m; i += SAMPLE_THREADS) {
        int32_t id = ld_shared(&r.s.id[i]);
        uint64_t key = top_key(r.logit(id)) << 32 | (uint32_t)id;
        st_shared(&r.s.weight[i], key);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < m; i += SAMPLE_THREADS) {
        uint64_t key = ld_shared(&r.s.weight[i]);
        int rank = 0;
        for (int k = 0; k < m; k++)
            rank += ld_shared(&r.s.weight[k]) < key;
        if (rank < n)
            top_write(r, rank, (int32_t)(key & 0xffffffff), raw);
    }
    return m < n ? m : n;
}

/* The n largest raw logits, descending, ties to the lower id: the buckets of the distances give a
 * few candidates. Where they do not (many equal, or nothing finite), a pass for each. */
__device__ static int sample_top(sample_row &r, int n, const sample_raw &raw) {
    uint64_t need = (uint64_t)n, after = UINT64_MAX;
    if (r.raw_best < 0)
        return 0;
    r.view = SAMPLE_LOGITS;
    r.n = r.vocab;
    r.most = (double)raw.most;
    r.inverse = 1;
    r.tally_all(0, false);
    uint64_t all = r.tallied_to(SAMPLE_BUCKETS - 1, false);
    if (all >= need && raw.most < INFINITY) {
        int bucket = r.bucket_at(&need, false);
        if (r.tallied_to(bucket, false) <= SAMPLE_FEW) {
            int m = r.few(0, false,
                          [&](uint64_t key) { return sample_row::bucket_of(key) <= bucket; });
            return top_few(r, m, n, raw);
        }
    }
    int found = 0;
    for (int32_t id; found < n && (id = top_next(r, &after)) >= 0; found++)
        if (threadIdx.x == 0)
            top_write(r, found, id, raw);
    return found;
}

__device__ static void sample_report(sample_row &r, int32_t id, const sample_raw &raw) {
    const weft_sample_args &a = r.a;
    if (threadIdx.x == 0 && weft_has(&a.logprob))
        store1(a.logprob, r.row * a.logprob.stride[0], sample_logprob(r, id, raw));
    int64_t slots = weft_has(&a.top_id)        ? a.top_id.shape[1]
                    : weft_has(&a.top_logprob) ? a.top_logprob.shape[1]
                                               : 0;
    int n = r.p(&weft_sample_params::n_top);
    if (n <= 0 || slots == 0)
        return;
    n = n < WEFT_TOP_LOGPROBS ? n : (int)WEFT_TOP_LOGPROBS;
    int found = sample_top(r, n < slots ? n : (int)slots, raw);
    for (int64_t i = found + threadIdx.x; i < slots; i += SAMPLE_THREADS)
        top_write(r, i, -1, raw);
}

__device__ static void sample_probs(const sample_row &r, int32_t id, uint64_t total) {
    const weft_tensor &t = r.a.probs;
    int64_t at = r.row * t.stride[0];
    bool list = r.view == SAMPLE_SHORT;
    for (int64_t i = threadIdx.x; i < r.vocab; i += SAMPLE_THREADS) {
        double p = i == id;
        if (total)
            p = list ? 0 : (double)weft_weight(r.value(i)) / (double)total;
        store1(t, at + i * t.stride[1], (float)p);
    }
    __syncthreads();
    if (total && list)
        r.each([&](int64_t j, double v) {
            store1(t, at + r.id_of(j) * t.stride[1],
                   (float)((double)weft_weight(v) / (double)total));
        });
}

__device__ static void sample_remember(const sample_row &r, int32_t id) {
    const weft_sample_args &a = r.a;
    int32_t slot = r.p(&weft_sample_params::slot), len = r.p(&weft_sample_params::history_len);
    if (weft_has(&a.id))
        st_global(sample_ints(a.id, r.row), id);
    if (id < 0)
        return;
    if (weft_has(&a.history) && len >= 0 && len < a.history.shape[1])
        st_global(sample_ints(a.history, slot) + len, id);
    if (weft_has(&a.last))
        st_global(sample_ints(a.last, slot), id);
}

__global__ void __launch_bounds__(SAMPLE_THREADS, 1)
    sample_chain_k(const __grid_constant__ weft_sample_args a, int64_t row0, char *scratch) {
    WEFT_SMEM(sample_smem, s);
    int64_t vocab = a.logits.shape[1], row = row0 + blockIdx.x;
    if (row >= lead_rows(a.rows, a.logits.shape[0]))
        return;
    scratch += blockIdx.x * sample_slot_bytes(vocab);
    double *x = (double *)(scratch + sample_slices(vocab) * (int64_t)sizeof(sample_part));
    sample_row r = {a,    s, row, vocab,         vocab,      0,    1, 0, x, (uint32_t *)(x + vocab),
                    NULL, 0, -1,  SAMPLE_LOGITS, SAMPLE_RAW, false};
    if (threadIdx.x < WEFT_SAMPLE_WORDS)
        st_shared((int32_t *)&s.p + threadIdx.x,
                  ld_const(sample_ints(a.params, row) + threadIdx.x));
    __syncthreads();
    int32_t len = r.p(&weft_sample_params::history_len);
    if (weft_has(&a.history) && len > 0) {
        r.history = sample_ints(a.history, r.p(&weft_sample_params::slot));
        r.history_len = len < a.history.shape[1] ? len : (int32_t)a.history.shape[1];
    }
    sample_raw raw = sample_combine(r, (const sample_part *)scratch);
    uint64_t total;
    int32_t id = sample_choose(r, &total);
    if (weft_has(&a.probs))
        sample_probs(r, id, total);
    sample_report(r, id, raw);
    if (threadIdx.x == 0)
        sample_remember(r, id);
}

static size_t sample_scratch(const weft_args *args) {
    const weft_tensor &t = args->sample.logits;
    int64_t rows = t.shape[0] < SAMPLE_SLOTS ? t.shape[0] : (int64_t)SAMPLE_SLOTS;
    return (size_t)(rows * sample_slot_bytes(t.shape[1]));
}

static int sample_ok(const weft_args *args) {
    const weft_sample_args &a = args->sample;
    return a.logits.dtype == WEFT_F32 && a.logits.shape[1] <= SAMPLE_VOCAB &&
           (a.logits.stride[1] == 1 || a.logits.shape[1] == 1) && a.params.dtype == WEFT_I32 &&
           a.params.shape[1] == WEFT_SAMPLE_WORDS && a.params.stride[1] == 1 &&
           (!weft_has(&a.breaker) || a.breaker.stride[1] == 1) &&
           (!weft_has(&a.history) || a.history.stride[1] == 1) &&
           (!weft_has(&a.bias) || is_float(a.bias)) && is_f32(a.mu) &&
           (!weft_has(&a.probs) || is_float(a.probs)) &&
           (!weft_has(&a.logprob) || is_float(a.logprob)) &&
           (!weft_has(&a.top_logprob) || is_float(a.top_logprob));
}

static void sample_run(const weft_step *step, weft_stream *stream) {
    const weft_sample_args &a = step->args.sample;
    int64_t rows = a.logits.shape[0];
    unsigned slices = (unsigned)sample_slices(a.logits.shape[1]);
    char *scratch = (char *)step->scratch;
    for (int64_t row = 0; row < rows; row += SAMPLE_SLOTS) {
        unsigned n = (unsigned)(rows - row < SAMPLE_SLOTS ? rows - row : (int64_t)SAMPLE_SLOTS);
        if (wide_type({&a.logits}) == WEFT_F32)
            WEFT_LAUNCH(step, stream, sample_scan_k<float>, dim3(slices, n), SAMPLE_SCAN_THREADS,
                        sizeof(sample_scan_smem), a, row, scratch);
        else
            WEFT_LAUNCH(step, stream, sample_scan_k<any_type>, dim3(slices, n), SAMPLE_SCAN_THREADS,
                        sizeof(sample_scan_smem), a, row, scratch);
        WEFT_LAUNCH(step, stream, sample_chain_k, n, SAMPLE_THREADS, sizeof(sample_smem), a, row,
                    scratch);
    }
}

WEFT_ROWS(sample) = {WEFT_ROW(sample, "simt", NONE, 1, sample_scratch), WEFT_ROWS_END};
WEFT_CLAIMS(sample) = {
    {"sample_scan_k<*>", SAMPLE_SCAN_THREADS, 8, sizeof(sample_scan_smem), "LDG.128"},
    {"sample_chain_k", SAMPLE_THREADS, 1, sizeof(sample_smem), "LDG"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
