#!/usr/bin/env python3
"""Checks that questions.jsonl, or the file named, agrees with the sample documents.

Verifies, for every question with an answer, that its quote stands in its document and that one of its accepted
answers stands in the quote (white space aside); and, for questions.jsonl only, that every document is asked about and that
the set has the shape README.md promises. It does not judge whether an unanswerable question is truly unanswerable: that took reading all of them.

Needs Python 3.8 and, for the PDFs, pdftotext (poppler-utils).   Run:  python3 check_questions.py [FILE]
Reads each format with the plainest means and not with maru's own loaders, so that it can contradict them.
"""
import html.parser
import json
import os
import subprocess
import sys
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
FIELDS = {"id": str, "query": str, "answers": list, "document": str, "quote": str, "lang": str}
EXPECTED = {("ko", True): 20, ("en", True): 10, ("ko", False): 7, ("en", False): 3}


class HtmlText(html.parser.HTMLParser):
    """Text nodes outside script, style and head title; block elements end a word, inline ones do not."""

    INLINE = {"a", "b", "i", "em", "strong", "code", "span", "sub", "sup"}
    HIDDEN = {"script", "style", "title"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.HIDDEN
        if tag not in self.INLINE:
            self.parts.append(" ")

    def handle_endtag(self, tag):
        self.hidden -= tag in self.HIDDEN
        if tag not in self.INLINE:
            self.parts.append(" ")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def decode(data, path):
    for charset in ("utf-8", "cp949"):
        try:
            return data.decode(charset)
        except UnicodeDecodeError:
            continue
    raise ValueError(f"{path}: neither UTF-8 nor CP949")


def document_text(path):
    kind = path.rsplit(".", 1)[-1]
    if kind == "pdf":
        return subprocess.run(["pdftotext", "-enc", "UTF-8", path, "-"], check=True, capture_output=True).stdout.decode()
    with open(path, "rb") as f:
        text = decode(f.read(), path)
    if kind == "html":
        parser = HtmlText()
        parser.feed(text)
        return "".join(parser.parts)
    if kind in ("md", "csv", "txt"):
        return text
    raise ValueError(f"{path}: no reader for .{kind}")


def flat(text):
    return " ".join(text.split())


def all_documents():
    found = []
    for folder, _, names in os.walk(os.path.join(HERE, "docs")):
        found += [os.path.relpath(os.path.join(folder, n), HERE).replace(os.sep, "/") for n in names]
    return sorted(found)


def check_question(q, texts):
    """Returns what is wrong with one question."""
    for name, kind in FIELDS.items():
        if not isinstance(q.get(name), kind):
            return [f"field {name} is missing or not a {kind.__name__}"]
    if set(q) != set(FIELDS):
        return [f"unknown fields {sorted(set(q) - set(FIELDS))}"]
    if not q["answers"]:
        return ["has no answer but names a document or quote"] if q["document"] or q["quote"] else []
    if q["document"] not in texts:
        return [f"no such document: {q['document']}"]
    wrong, quote = [], flat(q["quote"])
    if not quote or quote not in texts[q["document"]]:
        wrong.append(f"quote not in {q['document']}: {quote}")
    if not any(flat(a) and flat(a) in quote for a in q["answers"]):
        wrong.append(f"no answer of {q['answers']} in the quote: {quote}")
    return wrong


def main():
    main_set = os.path.join(HERE, "questions.jsonl")
    path = sys.argv[1] if len(sys.argv) > 1 else main_set
    texts = {d: flat(document_text(os.path.join(HERE, d))) for d in all_documents()}
    with open(path, encoding="utf-8") as f:
        questions = [json.loads(line) for line in f]
    wrong = [f"{q.get('id')}: {w}" for q in questions for w in check_question(q, texts)]
    wrong += [f"id {i} occurs {n} times" for i, n in Counter(q.get("id") for q in questions).items() if n > 1]
    counts = Counter((q.get("lang"), bool(q.get("answers"))) for q in questions)
    whole = os.path.realpath(path) == os.path.realpath(main_set)
    if whole and counts != EXPECTED:
        wrong.append(f"questions by (language, answerable): {dict(counts)}, expected {EXPECTED}")
    asked = Counter(q["document"] for q in questions if q.get("document"))
    wrong += [f"{d}: no question asks about it" for d in texts if whole and d not in asked]
    for document, text in texts.items():
        print(f"{asked[document]:2} questions  {len(text):5} characters  {document}")
    print(f"{len(questions)} questions, {len(texts)} documents, {len(wrong)} errors")
    for w in wrong:
        print("ERROR", w)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
