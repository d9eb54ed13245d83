/* SPDX-License-Identifier: Apache-2.0
 * Templates by name, written for weft: for models that come without one. Each marks what the
 * assistant writes, its end of turn included, with {% generation %}. */
#include "host/model/chat/chat_builtin.h"
#include <string.h>

/* A message's content as text: a string, nothing, or the text of its parts. */
#define TEXT                                                                               \
    "{%- macro text(m) -%}\n"                                                              \
    "{%- if m.content is string -%}{{ m.content }}\n"                                      \
    "{%- elif m.content -%}{{ m.content | map(attribute='text', default='') | join }}\n"   \
    "{%- endif -%}{%- endmacro -%}\n"

/* Roles of one form, and a system message that is a turn of its own. */
#define TURNS(head, tail, end, prompt)                                                     \
    TEXT "{%- for m in messages -%}\n"                                                     \
         "{{- " head " -}}\n"                                                              \
         "{%- if m.role == 'assistant' -%}\n"                                              \
         "{%- generation -%}{{- text(m) ~ " end " -}}{%- endgeneration -%}\n"              \
         "{%- else -%}{{- text(m) ~ " end " -}}{%- endif -%}{{- " tail " -}}\n"            \
         "{%- endfor -%}\n"                                                                \
         "{%- if add_generation_prompt -%}{{- " prompt " -}}{%- endif -%}\n"

#define BOS "{{- bos_token | default('') -}}\n"
#define EOS "(eos_token | default(''))"

/* `system` is the first message's text if it is one of the system; the rest are the user's and the
 * assistant's in turn. `before` and `after` stand around the user's text. */
#define DIALOGUE(begin, before, after, end)                                                \
    TEXT "{%- set system = '' -%}{%- set turns = messages -%}\n"                           \
         "{%- if messages and messages[0].role == 'system' -%}\n"                          \
         "{%- set system = text(messages[0]) -%}{%- set turns = messages[1:] -%}\n"        \
         "{%- endif -%}\n" begin "{%- for m in turns -%}\n"                                \
         "{%- if m.role != ['user', 'assistant'][loop.index0 % 2] -%}\n"                   \
         "{{- raise_exception('roles must be user and assistant in turn, after at most one "   \
         "system message') -}}\n"                                                          \
         "{%- elif m.role == 'user' -%}{{- " before " ~ text(m) ~ " after " -}}\n"         \
         "{%- else -%}{%- generation -%}{{- " end " -}}{%- endgeneration -%}\n"            \
         "{%- endif -%}{%- endfor -%}\n"

static const struct {
    const char *name, *text;
} rows[] = {
    {"chatml", TURNS("'<|im_start|>' ~ m.role ~ '\\n'", "'\\n'", "'<|im_end|>'",
                     "'<|im_start|>assistant\\n'")},
    {"llama-2",
     DIALOGUE(
         "",
         "(bos_token | default('')) ~ '[INST] ' ~ ('<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' "
         "if system and loop.first else '')",
         "' [/INST]'", "' ' ~ text(m) ~ ' ' ~ " EOS)},
    {"llama-3", BOS TURNS("'<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n'", "''",
                          "'<|eot_id|>'", "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'")},
    {"mistral", DIALOGUE(BOS, "'[INST] ' ~ (system ~ '\\n\\n' if system and loop.first else '')",
                         "' [/INST]'", "' ' ~ text(m) ~ " EOS)},
    {"gemma",
     DIALOGUE(BOS,
              "'<start_of_turn>user\\n' ~ (system ~ '\\n\\n' if system and loop.first else '')",
              "'<end_of_turn>\\n<start_of_turn>model\\n'", "text(m) ~ '<end_of_turn>\\n'")},
    {"phi-3", TURNS("'<|' ~ m.role ~ '|>\\n'", "'\\n'", "'<|end|>'", "'<|assistant|>\\n'")},
    {"vicuna", DIALOGUE(BOS "{{- system ~ ' ' if system else '' -}}\n", "'USER: '", "' ASSISTANT:'",
                        "' ' ~ text(m) ~ " EOS)},
    {"zephyr", TURNS("'<|' ~ m.role ~ '|>\\n'", "'\\n'", EOS, "'<|assistant|>\\n'")},
    {"alpaca",
     DIALOGUE(BOS "{{- system ~ '\\n\\n' if system else '' -}}\n", "'### Instruction:\\n'",
              "'\\n\\n### Response:\\n'", "text(m) ~ " EOS " ~ '\\n\\n'")},
    {"deepseek", DIALOGUE(BOS "{{- system -}}\n", "'<\xef\xbd\x9cUser\xef\xbd\x9c>'",
                          "'<\xef\xbd\x9c"
                          "Assistant\xef\xbd\x9c>'",
                          "text(m) ~ " EOS)},
    {"command-r",
     BOS TURNS("'<|START_OF_TURN_TOKEN|><|' ~ {'user': 'USER', 'assistant': 'CHATBOT'}.get(m.role, "
               "'SYSTEM') ~ '_TOKEN|>'",
               "''", "'<|END_OF_TURN_TOKEN|>'", "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'")},
};

enum { COUNT = sizeof rows / sizeof *rows };

const char *chat_builtin_text(const char *name) {
    for (int i = 0; i < COUNT; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i].text;
    return NULL;
}

const char *chat_builtin_name(int i) {
    return i < COUNT ? rows[i].name : NULL;
}
