/* SPDX-License-Identifier: Apache-2.0
 * Who gets what of a step: tokens of the budget, pages of the KV pool. Nothing here computes or
 * allocates. */
#include "host/serve/batch_plan.h"

static int32_t pending(const batch_job *j) {
    return j->g.seq->n - j->g.seq->computed;
}

static int32_t missing(const batch *b, const batch_job *j, int32_t tokens) {
    return kv_missing(&b->e->kv, j->g.seq->slot, tokens);
}

static int32_t available(const batch *b) {
    return b->e->kv.free_count - b->claimed;
}

static int find_oldest(const batch *b) {
    int i = 0;
    while (i < b->nrun && !b->run[i]->active)
        i++;
    return i;
}

batch_job *plan_oldest(const batch *b) {
    int i = find_oldest(b);
    return i < b->nrun ? b->run[i] : NULL;
}

static void reuse(batch *b, batch_job *j) {
    int32_t gained = seq_reuse(j->g.seq);
    b->stats.cached += gained;
    j->cached += j->begun ? 0 : gained;
}

/* ---- Who may take part ---- */

/* Pages for all its tokens are there, beside what those before it will still take and one page
 * each to grow by. Alone it has the whole pool. */
static bool fits(const batch *b, const batch_job *j) {
    int64_t need = missing(b, j, j->g.seq->n);
    bool alone = true;
    for (int i = 0; i < b->nrun; i++) {
        if (!b->run[i]->active)
            continue;
        need += 1 + missing(b, b->run[i], b->run[i]->g.seq->n);
        alone = false;
    }
    return alone || need <= b->e->kv.free_count;
}

static bool activate(batch *b, batch_job *j) {
    int32_t gained = seq_reuse(j->g.seq);
    j->active = fits(b, j);
    if (!j->active) {
        seq_evict(j->g.seq);
        return false;
    }
    b->stats.cached += gained;
    j->cached += j->begun ? 0 : gained;
    return true;
}

bool plan_activate(batch *b) {
    for (int i = 0; i < b->nrun; i++)
        if (!b->run[i]->active && !activate(b, b->run[i]))
            return false;
    return true;
}

/* ---- The step ---- */

static void drop_part(batch *b, batch_job *j) {
    int p = j->part, last = --b->nparts;
    b->left += b->part[p].take;
    b->claimed -= b->claim[p];
    b->part[p] = b->part[last];
    b->claim[p] = b->claim[last];
    b->who[p] = b->who[last];
    b->who[p]->part = p;
    j->part = -1;
}

static void preempt(batch *b, batch_job *j) {
    if (j->part >= 0)
        drop_part(b, j);
    seq_evict(j->g.seq);
    j->active = false;
    j->begun = true;
    j->preempted++;
    b->stats.preempted++;
}

/* Pages for run[i], if need be from those younger than it. */
static bool make_room(batch *b, int i, int32_t need) {
    for (int v = b->nrun - 1; v > i && available(b) < need; v--)
        if (b->run[v]->active)
            preempt(b, b->run[v]);
    return available(b) >= need;
}

/* Up to `take` pending tokens of run[i], as far as its pages go. */
static void give(batch *b, int i, int32_t take) {
    batch_job *j = b->run[i];
    weft_seq *s = j->g.seq;
    if (take > pending(j))
        take = pending(j);
    if (!make_room(b, i, missing(b, j, s->computed + take))) {
        int64_t room = (int64_t)(b->e->kv.held[s->slot] + available(b)) * KV_PAGE - s->computed;
        take = take < room ? take : (int32_t)room;
    }
    if (take <= 0)
        return;
    j->part = b->nparts++;
    b->part[j->part] = (step_part){.seq = s, .take = take, .row = -1};
    b->who[j->part] = j;
    b->claim[j->part] = missing(b, j, s->computed + take);
    b->claimed += b->claim[j->part];
    b->left -= take;
}

static bool decodes(const batch_job *j) {
    return j->active && pending(j) == 1;
}

void plan_step(batch *b) {
    int oldest = find_oldest(b), others = 0;
    b->nparts = 0;
    b->claimed = 0;
    b->left = b->budget;
    for (int i = oldest; i < b->nrun; i++) {
        b->run[i]->part = -1;
        if (b->run[i]->active)
            reuse(b, b->run[i]);
        others += i > oldest && decodes(b->run[i]);
    }
    if (oldest < b->nrun)
        give(b, oldest, others < b->left ? b->left - others : 1);
    for (int i = oldest + 1; i < b->nrun && b->left > 0; i++)
        if (decodes(b->run[i]))
            give(b, i, 1);
    for (int i = oldest + 1; i < b->nrun && b->left > 0; i++)
        if (b->run[i]->active && b->run[i]->part < 0)
            give(b, i, b->left);
}
