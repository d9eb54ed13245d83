/* SPDX-License-Identifier: Apache-2.0
 * The library in thirty lines: open a model, stream text, see how fast it was.
 *
 *     cc embed.c $(pkg-config --cflags --libs weft) -o embed && ./embed MODEL "Once upon a time" */
#include <stdio.h>
#include <weft.h>

static bool print_token(void *user, const weft_token *token) {
    (void)user;
    fwrite(token->text, 1, token->n_text, stdout);
    fflush(stdout);
    return true; /* false would stop here */
}

int main(int argc, char **argv) {
    if (argc != 3)
        return fprintf(stderr, "usage: embed MODEL PROMPT\n"), 2;
    weft_engine *engine = NULL;
    weft_engine_options options = {.ctx_size = 512}; /* what is not named is the default */
    weft_status status = weft_engine_open(argv[1], &options, &engine);
    if (status == WEFT_OK) {
        weft_sampling greedy = weft_sampling_greedy();
        weft_request request = {.prompt = argv[2], .max_tokens = 32, .sampling = &greedy};
        weft_result result = {.finish = WEFT_FINISH_LENGTH};
        status = weft_generate(engine, &request, print_token, NULL, &result);
        if (status == WEFT_OK)
            printf("\n[%d tokens, %.1f ms]\n", (int)result.n_generated,
                   1e3 * (result.prompt_seconds + result.generate_seconds));
    }
    if (status != WEFT_OK)
        fprintf(stderr, "embed: %s\n", weft_error());
    weft_engine_close(engine);
    return weft_exit_code(status);
}
