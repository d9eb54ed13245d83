/* SPDX-License-Identifier: Apache-2.0
 * One row of the sampling chain on one block: what a stage of docs/SAMPLING.md needs. The tokens
 * are in one of three places: as logits with a distance and a scale (nothing is written), as
 * doubles in the row's scratch (by id; -infinity is out), or, once few are left, as a list in
 * shared memory (ids ascending). All members are called by all threads of the block. */
#pragma once
#include "kernels/lib/hold.cuh"
#include "kernels/lib/tile.h"
#include "weft/rng.h"
#include "weft/weight.h"

namespace WEFT_CU_NS {

/* What a slice of a row's raw logits says: the lowest id of the largest (-1: there is none), and
 * the sum of e^(x - most). */
struct sample_part {
    float most, sum;
    int32_t id, pad;
};

struct sample_smem {
    weft_sample_params p;
    uint64_t slot[SAMPLE_WARPS], found[2];
    uint32_t count[SAMPLE_BUCKETS], low[SAMPLE_BUCKETS], high[SAMPLE_BUCKETS];
    uint32_t bit[SAMPLE_VOCAB / 32];
    double list_x[SAMPLE_LIST];
    int32_t list_id[SAMPLE_LIST];
    uint64_t key[SAMPLE_FEW], weight[SAMPLE_FEW];
    int32_t id[SAMPLE_FEW];
    uint32_t few;
};

/* Tokens of a smaller key are before, and so are those of this key up to this id. */
struct sample_place {
    uint64_t key;
    int32_t id;
};

enum sample_view { SAMPLE_LOGITS, SAMPLE_ARRAY, SAMPLE_SHORT };
enum sample_state { SAMPLE_RAW, SAMPLE_LOOSE, SAMPLE_CENTRED }; /* as in kernels/ref/sample.h */

__device__ __forceinline__ int32_t *sample_ints(const weft_tensor &t, int64_t i) {
    return (int32_t *)t.data + i * t.stride[0];
}

struct sample_row {
    const weft_sample_args &a;
    sample_smem &s;
    int64_t row, vocab, n; /* n: places of the view */
    double most, inverse, base;
    double *x;       /* [V], scratch */
    uint32_t *index; /* [V], scratch: a number for each token, undefined where nobody wrote */
    const int32_t *history;
    int32_t history_len, raw_best;
    int view, state;
    bool greedy;

    template <class T> __device__ __forceinline__ T p(T weft_sample_params::*field) const {
        return ld_shared(&(s.p.*field));
    }

    /* ---- the block as a whole ---- */

    template <class T, class F> __device__ T all(T v, F combine) const {
        uint64_t bits;
#pragma unroll
        for (int d = 16; d > 0; d /= 2)
            v = combine(v, __shfl_xor_sync(0xffffffffu, v, d));
        memcpy(&bits, &v, 8);
        __syncthreads(); /* nobody reads the slots any more */
        if (threadIdx.x % 32 == 0)
            st_shared(&s.slot[threadIdx.x / 32], bits);
        __syncthreads();
        bits = ld_shared(&s.slot[threadIdx.x % SAMPLE_WARPS]);
        memcpy(&v, &bits, 8);
#pragma unroll
        for (int d = SAMPLE_WARPS / 2; d > 0; d /= 2)
            v = combine(v, __shfl_xor_sync(0xffffffffu, v, d));
        return v;
    }
    __device__ uint64_t all_sum(uint64_t v) const {
        return all(v, [](uint64_t b, uint64_t c) { return b + c; });
    }
    __device__ uint64_t all_min(uint64_t v) const {
        return all(v, [](uint64_t b, uint64_t c) { return b < c ? b : c; });
    }
    __device__ double all_max(double v) const {
        return all(v, [](double b, double c) { return b > c ? b : c; });
    }

    /* Sum over the threads before this one. */
    __device__ uint64_t scan(uint64_t v) const {
        uint64_t sum = v, before = 0;
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            uint64_t up = __shfl_up_sync(0xffffffffu, sum, d);
            sum += lane >= d ? up : 0;
        }
        __syncthreads();
        if (lane == 31)
            st_shared(&s.slot[warp], sum);
        __syncthreads();
        for (int i = 0; i < warp; i++)
            before += ld_shared(&s.slot[i]);
        return before + sum - v;
    }

    /* ---- tokens ---- */

    __device__ __forceinline__ double distance(float logit) const {
        double v = (double)logit;
        return v != v ? -INFINITY : v == most ? 0.0 : (v - most) * inverse;
    }
    __device__ __forceinline__ float logit(int64_t id) const {
        return ld_const((const float *)a.logits.data + row * a.logits.stride[0] +
                        id * a.logits.stride[1]);
    }
    __device__ __forceinline__ double value(int64_t j) const {
        return view == SAMPLE_LOGITS  ? distance(logit(j))
               : view == SAMPLE_ARRAY ? ld_global(x + j)
                                      : ld_shared(&s.list_x[j]);
    }
    __device__ __forceinline__ void set(int64_t j, double v) const {
        if (view == SAMPLE_ARRAY)
            st_global(x + j, v);
        else
            st_shared(&s.list_x[j], v);
    }
    __device__ __forceinline__ int32_t id_of(int64_t j) const {
        return view == SAMPLE_SHORT ? ld_shared(&s.list_id[j]) : (int32_t)j;
    }

    /* Places j, j + threads, ...: all loads before the first use. */
    template <int FLIGHT>
    __device__ __forceinline__ void load(int64_t j, double (&v)[FLIGHT]) const {
        if (view == SAMPLE_LOGITS) {
            float q[FLIGHT];
#pragma unroll
            for (int k = 0; k < FLIGHT; k++)
                q[k] = j + k * SAMPLE_THREADS < n ? logit(j + k * SAMPLE_THREADS) : -INFINITY;
#pragma unroll
            for (int k = 0; k < FLIGHT; k++)
                v[k] = distance(q[k]);
            return;
        }
#pragma unroll
        for (int k = 0; k < FLIGHT; k++)
            v[k] = j + k * SAMPLE_THREADS < n ? value(j + k * SAMPLE_THREADS) : -INFINITY;
    }

    /* f(place, x) for what is not out. Passes of rare stages have half the loads in flight: their
     * code counts more. */
    template <int FLIGHT = SAMPLE_FLIGHT / 2, class F>
    __device__ __forceinline__ void each(F f) const {
        for (int64_t j = threadIdx.x; j < n; j += FLIGHT * SAMPLE_THREADS) {
            double v[FLIGHT];
            load(j, v);
#pragma unroll
            for (int k = 0; k < FLIGHT; k++)
                if (v[k] > -INFINITY)
                    f(j + k * SAMPLE_THREADS, v[k]);
        }
    }

    /* Into the scratch, for stages that change single tokens. */
    __device__ void spread() {
        if (view != SAMPLE_LOGITS)
            return;
        for (int64_t j = threadIdx.x; j < n; j += SAMPLE_THREADS)
            st_global(x + j, value(j));
        view = SAMPLE_ARRAY;
        __syncthreads();
    }

    /* The place of a token, -1 if the list does not have it. */
    __device__ int64_t place_of(int32_t id) const {
        if (view != SAMPLE_SHORT)
            return id;
        int64_t low = 0, high = n;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (ld_shared(&s.list_id[middle]) < id)
                low = middle + 1;
            else
                high = middle;
        }
        return low < n && ld_shared(&s.list_id[low]) == id ? low : -1;
    }

    /* ---- the best, distances ---- */

    /* -1 if there is none. */
    __device__ int32_t best(double *value_of_best) const {
        double m = -INFINITY;
        uint64_t id = UINT64_MAX;
        if (view == SAMPLE_LOGITS) {
            *value_of_best = raw_best < 0 ? -INFINITY : distance(logit(raw_best));
            return raw_best;
        }
        each([&](int64_t, double v) { m = v > m ? v : m; });
        m = all_max(m);
        each([&](int64_t j, double v) {
            uint64_t i = (uint64_t)(uint32_t)id_of(j);
            id = v == m && i < id ? i : id;
        });
        id = all_min(id);
        *value_of_best = m;
        return id == UINT64_MAX ? -1 : (int32_t)id;
    }

    __device__ void distances(double from, double temperature) {
        double by = 1 / temperature;
        if (view == SAMPLE_LOGITS) { /* raw: from the logits; centred: from 0, and only scaled */
            most = state == SAMPLE_CENTRED ? most : from;
            inverse = by;
        } else {
            each([&](int64_t j, double v) { set(j, v == from ? 0.0 : (v - from) * by); });
            __syncthreads();
        }
        base = (base + from) / temperature;
        state = SAMPLE_CENTRED;
    }

    __device__ bool centre() {
        double from;
        if (state == SAMPLE_CENTRED)
            return true;
        int32_t id = best(&from);
        if (id >= 0)
            distances(from, 1);
        return id >= 0;
    }

    /* ---- sums of integers ---- */

    __device__ uint64_t alive() const {
        uint64_t sum = 0;
        each([&](int64_t, double) { sum++; });
        return all_sum(sum);
    }
    __device__ uint64_t mass() const {
        uint64_t sum = 0;
        each<SAMPLE_FLIGHT>([&](int64_t, double v) { sum += weft_weight(v); });
        return all_sum(sum);
    }
    __device__ double surprise(uint64_t total) const {
        uint64_t sum = 0;
        each([&](int64_t, double v) {
            uint64_t w = weft_weight(v);
            sum += w ? weft_fixed((double)w * -v) : 0;
        });
        return (double)all_sum(sum) / (double)total;
    }

    __device__ uint32_t random(int lane) const {
        uint64_t seed = ld_shared(&s.p.seed[0]) | (uint64_t)ld_shared(&s.p.seed[1]) << 32;
        uint64_t stream = ld_shared(&s.p.stream[0]) | (uint64_t)ld_shared(&s.p.stream[1]) << 32;
        weft_philox r = weft_philox4x32(seed, stream,
                                        (uint64_t)p(&weft_sample_params::history_len));
        return lane ? r.v[1] : r.v[0];
    }

    /* ---- selection: radix, on the bits of |centre - x| ---- */

    __device__ __forceinline__ static uint64_t key_of(double v, double centre) {
        return weft_f64_bits(fabs(centre - v));
    }
    /* Six bits of the mantissa and 32 octaves of the distance, from 2^-20 up: monotone. */
    __device__ __forceinline__ static int bucket_of(uint64_t key) {
        int64_t b = (int64_t)(key >> 46) - ((int64_t)(1023 - 20) << 6);
        return b < 0 ? 0 : b < SAMPLE_BUCKETS ? (int)b : (int)SAMPLE_BUCKETS - 1;
    }

    struct narrowed { /* keys of this bucket whose bits under the mask are these */
        int bucket;
        uint64_t mask, bits;
        __device__ __forceinline__ bool has(uint64_t key) const {
            return bucket_of(key) == bucket && (key & mask) == bits;
        }
    };

    __device__ void clear() const {
        __syncthreads();
        for (int b = threadIdx.x; b < SAMPLE_BUCKETS; b += SAMPLE_THREADS) {
            st_shared(&s.count[b], 0u);
            st_shared(&s.low[b], 0u);
            st_shared(&s.high[b], 0u);
        }
        __syncthreads();
    }

    /* 64 bits in two native atomics: the lower half says when it wraps. */
    __device__ __forceinline__ void tally(int b, uint64_t w, bool by_mass) const {
        atomicAdd(&s.count[b], 1u);
        if (!by_mass || !w)
            return;
        uint32_t low = (uint32_t)w, old = atomicAdd(&s.low[b], low);
        uint32_t high = (uint32_t)(w >> 32) + (old + low < old);
        if (high)
            atomicAdd(&s.high[b], high);
    }
    __device__ __forceinline__ uint64_t tallied(int b, bool by_mass) const {
        if (!by_mass)
            return ld_shared(&s.count[b]);
        return ld_shared(&s.low[b]) | (uint64_t)ld_shared(&s.high[b]) << 32;
    }

    /* The bucket in which the sum reaches `need`; takes off what is before it. */
    __device__ int bucket_at(uint64_t *need, bool by_mass) const {
        const int each = SAMPLE_BUCKETS / SAMPLE_THREADS;
        uint64_t own = 0;
        __syncthreads();
        for (int i = 0; i < each; i++)
            own += tallied(threadIdx.x * each + i, by_mass);
        uint64_t before = scan(own);
        for (int i = 0; i < each; i++) {
            uint64_t w = tallied(threadIdx.x * each + i, by_mass);
            if (before < *need && before + w >= *need) {
                st_shared(&s.found[0], (uint64_t)(threadIdx.x * each + i));
                st_shared(&s.found[1], before);
            }
            before += w;
        }
        __syncthreads();
        *need -= ld_shared(&s.found[1]);
        return (int)ld_shared(&s.found[0]);
    }

    /* Writes the tokens that match into s.key, s.id, s.weight; no more than SAMPLE_FEW do. */
    template <class F> __device__ int few(double centre, bool by_mass, F match) const {
        __syncthreads();
        if (threadIdx.x == 0)
            st_shared(&s.few, 0u);
        __syncthreads();
        each([&](int64_t j, double v) {
            uint64_t key = key_of(v, centre);
            if (!match(key))
                return;
            uint32_t at = atomicAdd(&s.few, 1u);
            st_shared(&s.key[at], key);
            st_shared(&s.id[at], id_of(j));
            st_shared(&s.weight[at], by_mass ? weft_weight(v) : (uint64_t)1);
        });
        __syncthreads();
        return (int)ld_shared(&s.few);
    }

    /* What is before token i of the few. */
    __device__ uint64_t before(int i, int m) const {
        uint64_t key = ld_shared(&s.key[i]), sum = 0;
        int32_t id = ld_shared(&s.id[i]);
        for (int k = 0; k < m; k++) {
            uint64_t other = ld_shared(&s.key[k]);
            if (other < key || (other == key && ld_shared(&s.id[k]) < id))
                sum += ld_shared(&s.weight[k]);
        }
        return sum;
    }

    __device__ sample_place place_in_few(int m, uint64_t need) const {
        for (int i = threadIdx.x; i < m; i += SAMPLE_THREADS) {
            uint64_t b = before(i, m);
            if (b < need && b + ld_shared(&s.weight[i]) >= need) {
                st_shared(&s.found[0], ld_shared(&s.key[i]));
                st_shared(&s.found[1], (uint64_t)(uint32_t)ld_shared(&s.id[i]));
            }
        }
        __syncthreads();
        return sample_place{ld_shared(&s.found[0]), (int32_t)ld_shared(&s.found[1])};
    }

    __device__ void tally_all(double centre, bool by_mass) const {
        clear();
        each<SAMPLE_FLIGHT>([&](int64_t, double v) {
            tally(bucket_of(key_of(v, centre)), by_mass ? weft_weight(v) : 0, by_mass);
        });
        __syncthreads();
    }
    /* Sum over the buckets up to this one. */
    __device__ uint64_t tallied_to(int bucket, bool by_mass) const {
        uint64_t own = 0;
        for (int b = threadIdx.x; b <= bucket; b += SAMPLE_THREADS)
            own += tallied(b, by_mass);
        return all_sum(own);
    }

    /* Cuts behind the token at which the count or the mass reaches need_of(all there is); 0: no
     * cut. Where few enough are left the exact place is looked for in the list. */
    template <class N> __device__ void keep(double centre, bool by_mass, bool ties, N need_of) {
        tally_all(centre, by_mass);
        uint64_t need = need_of(tallied_to(SAMPLE_BUCKETS - 1, by_mass)), rest = need;
        if (!need)
            return;
        if (view != SAMPLE_SHORT) {
            int bucket = bucket_at(&rest, by_mass);
            if (tallied_to(bucket, false) <= SAMPLE_LIST)
                cut([&](int64_t, double v) { return bucket_of(key_of(v, centre)) <= bucket; });
        }
        sample_place last = select(centre, by_mass, need);
        cut([&](int64_t j, double v) {
            uint64_t key = key_of(v, centre);
            return key < last.key || (key == last.key && (ties || id_of(j) <= last.id));
        });
    }

    /* The token, in the order of keys and then ids, at which the count or the mass of those up to
     * it reaches `need`; there is one. Where equal keys stay together only the key counts. */
    __device__ sample_place select(double centre, bool by_mass, uint64_t need) const {
        narrowed part = {0, 0, 0};
        int shift = 64;
        tally_all(centre, by_mass);
        part.bucket = bucket_at(&need, by_mass);
        uint32_t members = ld_shared(&s.count[part.bucket]);
        while (members > SAMPLE_FEW && shift > 0) {
            int digit = shift < 11 ? shift : 11;
            shift -= digit;
            clear();
            each([&](int64_t, double v) {
                uint64_t key = key_of(v, centre);
                if (part.has(key))
                    tally((int)(key >> shift & ((1u << digit) - 1)), by_mass ? weft_weight(v) : 0,
                          by_mass);
            });
            int b = bucket_at(&need, by_mass);
            members = ld_shared(&s.count[b]);
            part.bits |= (uint64_t)b << shift;
            part.mask |= (uint64_t)((1u << digit) - 1) << shift;
        }
        if (members > SAMPLE_FEW)
            return place_of_equal(part.bits, centre, by_mass, need);
        int m = few(centre, by_mass, [&](uint64_t key) { return part.has(key); });
        return place_in_few(m, need);
    }

    /* Many equal keys. On both sides of a centre they weigh differently, but then they stay
     * together. */
    __device__ sample_place place_of_equal(uint64_t key, double centre, bool by_mass,
                                           uint64_t need) const {
        uint64_t w = by_mass ? weft_weight(-weft_bits_f64(key)) : 1;
        uint64_t q = w ? (need + w - 1) / w : 1;
        if (centre != 0)
            return sample_place{key, -1};
        mark([&](int64_t, double v) { return key_of(v, centre) == key; });
        const int64_t words = (n + 31) / 32, each = (words + SAMPLE_THREADS - 1) / SAMPLE_THREADS;
        int64_t first = threadIdx.x * each;
        uint64_t before = scan(marked(first, each));
        for (int64_t w32 = first; w32 < first + each && w32 < words; w32++)
            for (uint32_t b = ld_shared(&s.bit[w32]); b; b &= b - 1)
                if (++before == q)
                    st_shared(&s.found[1], (uint64_t)(uint32_t)id_of(w32 * 32 + __ffs((int)b) - 1));
        __syncthreads();
        return sample_place{key, (int32_t)ld_shared(&s.found[1])};
    }

    /* ---- cuts ---- */

    /* A bit for each place that stays. */
    template <class F> __device__ __forceinline__ void mark(F stays) const {
        __syncthreads();
        int64_t lane = threadIdx.x % 32;
        for (int64_t j = threadIdx.x; j - lane < n; j += SAMPLE_FLIGHT * SAMPLE_THREADS) {
            double v[SAMPLE_FLIGHT];
            load(j, v);
#pragma unroll
            for (int k = 0; k < SAMPLE_FLIGHT; k++) {
                int64_t at = j + k * SAMPLE_THREADS;
                unsigned b = __ballot_sync(0xffffffffu, v[k] > -INFINITY && stays(at, v[k]));
                if (lane == 0 && at < n)
                    st_shared(&s.bit[at / 32], b);
            }
        }
        __syncthreads();
    }
    __device__ uint64_t marked(int64_t first, int64_t words) const {
        uint64_t sum = 0;
        for (int64_t w = first; w < first + words && w < (n + 31) / 32; w++)
            sum += (uint64_t)__popc(ld_shared(&s.bit[w]));
        return sum;
    }

    /* The marked ones into the list, ids ascending. */
    __device__ void gather(uint64_t before, int64_t first, int64_t words) const {
        for (int64_t w = first; w < first + words && w < (n + 31) / 32; w++)
            for (uint32_t b = ld_shared(&s.bit[w]); b; b &= b - 1) {
                int64_t j = w * 32 + __ffs((int)b) - 1;
                st_shared(&s.list_x[before], value(j));
                st_shared(&s.list_id[before], (int32_t)j);
                before++;
            }
    }

    /* Only what stays(place, x) says is left. */
    template <class F> __device__ __forceinline__ void cut(F stays) {
        if (view == SAMPLE_SHORT) {
            each([&](int64_t j, double v) {
                if (!stays(j, v))
                    set(j, -INFINITY);
            });
            __syncthreads();
            return;
        }
        mark(stays);
        keep_marked();
    }
    __device__ void keep_marked() {
        const int64_t words = (n + 31) / 32, each = (words + SAMPLE_THREADS - 1) / SAMPLE_THREADS;
        uint64_t own = marked(threadIdx.x * each, each), total = all_sum(own);
        if (total <= SAMPLE_LIST) {
            gather(scan(own), threadIdx.x * each, each);
            view = SAMPLE_SHORT;
            n = (int64_t)total;
        } else {
            for (int64_t j = threadIdx.x; j < n; j += SAMPLE_THREADS) {
                bool stays = ld_shared(&s.bit[j / 32]) >> (j & 31) & 1;
                if (view == SAMPLE_LOGITS || !stays)
                    st_global(x + j, stays ? value(j) : -INFINITY);
            }
            view = SAMPLE_ARRAY;
        }
        __syncthreads();
    }

    __device__ void cut_below(double least) {
        cut([&](int64_t, double v) { return !(v < least); });
    }

    /* ---- the draw ---- */

    /* Places [first, first + size * warps): sums of a warp's part each; takes off of `at` what is
     * before the part in which the running sum passes it. */
    __device__ void part_mass(int64_t first, int64_t size) const {
        int64_t begin = first + threadIdx.x / 32 * size, end = begin + size;
        uint64_t sum = 0;
        for (int64_t j = begin + threadIdx.x % 32; j < end && j < n; j += 32 * SAMPLE_FLIGHT) {
            double v[SAMPLE_FLIGHT];
#pragma unroll
            for (int k = 0; k < SAMPLE_FLIGHT; k++)
                v[k] = j + 32 * k < end && j + 32 * k < n ? value(j + 32 * k) : -INFINITY;
#pragma unroll
            for (int k = 0; k < SAMPLE_FLIGHT; k++)
                sum += weft_weight(v[k]);
        }
#pragma unroll
        for (int d = 16; d > 0; d /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        __syncthreads();
        if (threadIdx.x % 32 == 0)
            st_shared(&s.slot[threadIdx.x / 32], sum);
        __syncthreads();
    }
    __device__ int64_t part_at(int64_t first, int64_t size, uint64_t *at) const {
        int w = 0;
        for (; w < SAMPLE_WARPS - 1 && ld_shared(&s.slot[w]) <= *at; w++)
            *at -= ld_shared(&s.slot[w]);
        return first + w * size;
    }

    /* Inverse of the weights' running sum, ids ascending. The token's place. */
    __device__ int64_t draw(uint64_t *total) const {
        const int64_t span = SAMPLE_WARPS * 32;
        int64_t size = (n + span - 1) / span * 32, first;
        part_mass(0, size);
        *total = 0;
        for (int w = 0; w < SAMPLE_WARPS; w++)
            *total += ld_shared(&s.slot[w]);
        uint64_t at = weft_weight_draw(random(0), *total);
        first = part_at(0, size, &at);
        while (size > 32) {
            size = (size + span - 1) / span * 32;
            part_mass(first, size);
            first = part_at(first, size, &at);
        }
        return draw_in_warp(first, at);
    }
    __device__ int64_t draw_in_warp(int64_t first, uint64_t at) const {
        int lane = threadIdx.x % 32;
        uint64_t sum = first + lane < n ? weft_weight(value(first + lane)) : 0;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            uint64_t up = __shfl_up_sync(0xffffffffu, sum, d);
            sum += lane >= d ? up : 0;
        }
        return first + __ffs((int)__ballot_sync(0xffffffffu, sum > at)) - 1;
    }
};

} // namespace WEFT_CU_NS
