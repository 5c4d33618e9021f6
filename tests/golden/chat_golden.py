#!/usr/bin/env python3
"""Makes tests/golden/chat_golden.json, the reference renderings that tests/text/test_chat.c compares with.

    pip install transformers jinja2          (made with 5.24 and 3.1.6)
    tests/golden/chat_golden.py [OUT]        templates in $MARU_SHARED/data/chat-templates (default: ../shared beside the repository)

"cases": small templates written for this purpose (chat_cases.py), one feature each, with the whole rendering, or the name of the error.
"templates": for every template in the folder (other people's work, not kept here) and every conversation the length and SHA-256 of
its rendering, or -1 and the name of the error; "needs": a filter that transformers does not have and that was added for this template.

What renders is transformers itself: _normalize_chat_messages and render_jinja_template, as apply_chat_template calls them, with the
special tokens as variables. Only the clock is held still, at EPOCH in UTC (the C side reads SOURCE_DATE_EPOCH). KEEP=FOLDER writes
the whole renderings there, to look at."""
import contextlib
import datetime
import hashlib
import json
import os
import sys

import jinja2.defaults
from transformers.utils import chat_template_utils as ctu

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from chat_cases import CASES, CONVERSATIONS, TALK  # noqa: E402  (name, template, changes to TALK)

EPOCH = 1753747200 + 3723  # 2025-07-29 01:02:03 UTC
EXTENSIONS = {"from_json": json.loads}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(EPOCH, datetime.timezone.utc).replace(tzinfo=None)


ctu.datetime = Clock


@contextlib.contextmanager
def added(name):
    """one more filter in every environment made meanwhile"""
    if name:
        jinja2.defaults.DEFAULT_FILTERS[name] = EXTENSIONS[name]
    try:
        yield
    finally:
        jinja2.defaults.DEFAULT_FILTERS.pop(name, None)


def render(source, case, extension=None):
    variables = {"bos_token": case.get("bos"), "eos_token": case.get("eos"), **case.get("extra", {})}
    with added(extension):
        if hasattr(ctu._compile_jinja_template, "cache_clear"):
            ctu._compile_jinja_template.cache_clear()
        if hasattr(ctu._cached_compile_jinja_template, "cache_clear"):
            ctu._cached_compile_jinja_template.cache_clear()
        texts, _ = ctu.render_jinja_template(
            conversations=[ctu._normalize_chat_messages(case["messages"])],
            tools=case.get("tools"), documents=None, chat_template=source, add_generation_prompt=case.get("prompt", False),
            **{k: v for k, v in variables.items() if v is not None or k not in ("bos_token", "eos_token")})
    return texts[0]


def small_cases():
    rows = []
    for name, source, changes in CASES:
        case = dict(TALK, **changes)
        extension = case.pop("needs", None)
        try:
            case = dict(name=name, template=source, **case, text=render(source, case, extension))
        except Exception as e:
            case = dict(name=name, template=source, **case, error=type(e).__name__)
            if not name.startswith("error"):
                print("unexpected:", name, repr(e))
        if name.startswith("error") and "error" not in case:
            print("no error:", name)
        rows.append({k: v for k, v in case.items() if k not in TALK or TALK[k] != v})
    return rows


def known_row(folder, file):
    with open(os.path.join(folder, file), encoding="utf-8", newline="") as f:
        source = f.read()
    row = {}
    for e in EXTENSIONS:
        if "| " + e in source or "|" + e in source:
            row["needs"] = e
    for name, case in CONVERSATIONS.items():
        try:
            text = render(source, case, row.get("needs")).encode()
            row[name] = [len(text), hashlib.sha256(text).hexdigest()]
        except Exception as e:
            text = repr(e).encode()
            row[name] = [-1, type(e).__name__]
        if os.environ.get("KEEP"):
            with open(os.path.join(os.environ["KEEP"], file + "." + name), "wb") as f:
                f.write(text)
    return row


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "chat_golden.json")
    folder = os.path.join(os.environ.get("MARU_SHARED", os.path.join(HERE, "../../../shared")), "data/chat-templates")
    dump = lambda x: json.dumps(x, ensure_ascii=False)  # noqa: E731
    cases = small_cases()
    known = {f: known_row(folder, f) for f in sorted(os.listdir(folder)) if f.endswith(".jinja")} if os.path.isdir(folder) else {}
    if not known:
        print(folder, "is absent: no rows of known templates")
    with open(out, "w", encoding="utf-8") as f:
        f.write('{"talk": ' + dump(TALK) + ',\n "conversations": ' + dump(CONVERSATIONS) + ',\n "cases": [\n')
        f.write(",\n".join(dump(c) for c in cases) + '\n],\n "templates": {\n')
        f.write(",\n".join(dump(k) + ": " + dump(v) for k, v in known.items()) + "\n}}\n")
    errors = [(f, n, v[1]) for f, row in known.items() for n, v in row.items() if v[0] == -1]
    print(len(cases), "cases;", len(known), "templates,", len(known) * len(CONVERSATIONS), "renderings, of them errors:", len(errors))
    for e in errors:
        print("  ", *e)


main()
