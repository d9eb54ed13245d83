#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the results in jinja.jsonl again, with jinja2 itself set up as chat templates expect it.

    python3 tests/golden/jinja.py           compare; exit 1 if a row differs
    python3 tests/golden/jinja.py --write   write what jinja2 says

A row is a template with its text, or with "error" where jinja2 raises. Needs jinja2 3.1.6.
"""

import copy
import datetime
import json
import os
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jinja.jsonl")


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


class Dict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        Namespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment(now):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=now.strftime, dict=Dict(),
                       namespace=Namespace)
    return env


def render(env, template, args):
    try:
        return {"text": env.from_string(template).render(
            **{"tools": None, "documents": None, **copy.deepcopy(args)})}
    except Exception:
        return {"error": True}


def main():
    with open(PATH, encoding="utf-8") as f:
        head, *rows = map(json.loads, f)
    env = environment(datetime.datetime.fromisoformat(head["now"]))
    wrong = 0
    for row in rows:
        made = {"template": row["template"], "args": row["args"],
                **render(env, row["template"], head["args"][row["args"]])}
        if made != row:
            wrong += 1
            print(json.dumps(row), "->", json.dumps(made))
        row.clear()
        row.update(made)
    if "--write" in sys.argv:
        with open(PATH, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(x) + "\n" for x in [head, *rows])
    print(f"{len(rows)} rows, {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
