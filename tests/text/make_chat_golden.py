#!/usr/bin/env python3
"""Makes the reference renderings that test_chat.c compares with.

    pip install jinja2            (made with 3.1.6)
    tests/text/make_chat_golden.py [FOLDER WITH *.jinja]

chat_golden.json: small templates written for this purpose, one feature each, with the whole rendering.
chat_known.json:  conversations, and for every template in the folder (other people's work, not kept here) the length and
                  SHA-256 of its rendering of each conversation, or that it is an error.

The environment is the one in which transformers renders chat templates: ImmutableSandboxedEnvironment with trim_blocks and
lstrip_blocks, loopcontrols, a generation block, tojson over json.dumps, raise_exception, strftime_now. The clock stands
still at EPOCH (the C side reads SOURCE_DATE_EPOCH). from_json is what some templates expect beyond that."""
import hashlib
import json
import os
import sys
from datetime import datetime, timezone

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

EPOCH = 1753747200 + 3723  # 2025-07-29 01:02:03 UTC
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from chat_cases import CASES, TALK  # noqa: E402  (name, template, changes to TALK)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.fromtimestamp(EPOCH, timezone.utc).strftime(f)
    return env


def render(source, case):
    variables = dict(messages=case["messages"], tools=case.get("tools"), documents=None,
                     add_generation_prompt=case.get("prompt", False), bos_token=case.get("bos", ""), eos_token=case.get("eos", ""))
    variables.update(case.get("extra", {}))
    return environment().from_string(source).render(**variables)


# ---- conversations -----------------------------------------------------------------------------------------------------
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place, <now> & \"here\".",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Name of the city"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "array", "items": {"type": "integer"}, "description": "Days from now"}}}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "description": "시각을 알려 줍니다.",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "시간대"}, "exact": {"type": "boolean", "description": "초까지"}}}}}
CONVERSATIONS = {
    "system": {"messages": [{"role": "system", "content": "  You answer briefly.\n"}, {"role": "user", "content": "What is 2 < 3 & \"why\"?"}],
               "prompt": True, "bos": "<s>", "eos": "</s>"},
    "turns": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello! "},
                           {"role": "user", "content": "Tell me\na joke.\n"}, {"role": "assistant", "content": "Why did the chicken?"},
                           {"role": "user", "content": "Again"}, {"role": "assistant", "content": "No."}],
              "prompt": False, "bos": "<s>", "eos": "</s>"},
    "tools": {"messages": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Oslo?"},
                           {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": {
                               "name": "get_weather", "arguments": {"city": "Oslo", "days": [1, 2], "exact": True, "x": 1.5, "y": None}}}]},
                           {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"temp\": -3}"},
                           {"role": "assistant", "content": "Cold: -3."}, {"role": "user", "content": "Thanks"}],
              "tools": [WEATHER, CLOCK], "prompt": True, "bos": "<s>", "eos": "</s>",
              "extra": {"functions": "[{}]", "datetime": "today"}},
    "korean": {"messages": [{"role": "system", "content": "당신은 친절한 도우미입니다."}, {"role": "user", "content": "한글의 역사를 알려 줘. 🙂"},
                            {"role": "assistant", "content": "세종대왕이 1443년에 만들었습니다."}, {"role": "user", "content": "감사합니다\u3000"}],
               "prompt": True, "bos": "<s>", "eos": "</s>", "extra": {"enable_thinking": False, "date_string": "2025-07-29", "functions": "[]",
                                                                 "datetime": "2025-07-29"}},
}


def main():
    golden = []
    for name, source, changes in CASES:
        case = dict(TALK, **changes)
        try:
            case = dict(name=name, template=source, **case, text=render(source, case))
        except Exception as e:
            case = dict(name=name, template=source, **case, error=type(e).__name__)
            if not name.startswith("error"):
                print("unexpected:", name, repr(e))
        if name.startswith("error") and "error" not in case:
            print("no error:", name)
        golden.append({k: v for k, v in case.items() if k not in TALK or TALK[k] != v})
    with open(os.path.join(HERE, "chat_golden.json"), "w", encoding="utf-8") as f:
        f.write('{"talk": ' + json.dumps(TALK, ensure_ascii=False) + ',\n "cases": [\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in golden) + "\n]}\n")
    print(len(golden), "cases")
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../../../shared/data/chat-templates")
    if not os.path.isdir(folder):
        return
    known, errors = {}, 0
    for file in sorted(os.listdir(folder)):
        if not file.endswith(".jinja"):
            continue
        source, row = open(os.path.join(folder, file), encoding="utf-8", newline="").read(), {}
        for name, case in CONVERSATIONS.items():
            try:
                text = render(source, case).encode()
                row[name] = [len(text), hashlib.sha256(text).hexdigest()]
                if os.environ.get("KEEP"):  # whole renderings, to look at
                    open(os.path.join(os.environ["KEEP"], file + "." + name), "wb").write(text)
            except Exception as e:
                row[name] = [-1, type(e).__name__]
                errors += 1
                if os.environ.get("KEEP"):
                    print(file, name, repr(e)[:150])
        known[file] = row
    with open(os.path.join(HERE, "chat_known.json"), "w", encoding="utf-8") as f:
        f.write('{"conversations": ' + json.dumps(CONVERSATIONS, ensure_ascii=False) + ',\n "templates": {\n')
        f.write(",\n".join(json.dumps(k) + ": " + json.dumps(v) for k, v in known.items()) + "\n}}\n")
    print(len(known), "templates,", errors, "renderings are errors")


main()
