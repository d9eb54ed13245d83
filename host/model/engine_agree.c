/* SPDX-License-Identifier: Apache-2.0
 * What engines of one job must have in common. */
#include "host/base/hash.h"
#include "host/model/engine.h"
#include "host/run/agree.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = 96 };

/* Names, types and shapes of what the files hold, and how large they are: no weight is read. */
static void say_model(char text[TEXT_BYTES], const weft_engine *e) {
    hash_stream *h = hash_open();
    for (int i = 0; i < e->st.ntensor; i++) {
        const st_tensor *t = &e->st.tensor[i];
        hash_add(h, t->name, strlen(t->name) + 1);
        hash_add(h, &t->dtype, sizeof t->dtype);
        hash_add(h, t->shape, sizeof *t->shape * (size_t)t->ndim);
    }
    for (int i = 0; i < e->st.nfile; i++)
        hash_add(h, &e->st.map[i].size, sizeof e->st.map[i].size);
    snprintf(text, TEXT_BYTES, "%s of %d tensors (%016" PRIx64 ")", e->config.family, e->st.ntensor,
             hash_value(h));
    hash_close(h);
}

static void say_plan(char text[TEXT_BYTES], const weft_engine *e) {
    buf plan;
    buf_init(&plan, SIZE_MAX);
    engine_plan_text(e, true, &plan);
    snprintf(text, TEXT_BYTES, "%016" PRIx64, hash_xxh3(plan.data, plan.len));
    buf_fini(&plan);
}

weft_status engine_agree(const weft_engine *e, comm *world) {
    char model[TEXT_BYTES], machine[TEXT_BYTES], plan[TEXT_BYTES];
    say_model(model, e);
    snprintf(machine, sizeof machine, "%s, level %d", e->dev->backend, e->dev->level);
    say_plan(plan, e);
    const agree_fact facts[] = {{"model", model}, {"machine", machine}, {"plan", plan}};
    return agree(world, facts, 3);
}

weft_status engine_share(const weft_engine *e, uint64_t *v) {
    if (e->self < 0)
        return WEFT_OK;
    return comm_broadcast(&e->rank[e->self].all, 0, v, sizeof *v, "share");
}
