#!/usr/bin/env python3
"""Makes the PDF sample documents from the text files in src/.

Needs reportlab and the Nanum fonts:
    apt-get install python3-reportlab fonts-nanum
or reportlab from pip in a virtual environment. poppler-utils (pdftotext) is used by check_questions.py only.
Run:  python3 make_pdf.py         writes docs/ko/*.pdf and docs/en/*.pdf

Why reportlab: it embeds only the glyphs that are used and writes a ToUnicode table, so that Korean text can be
copied and extracted; and with invariant=1 the same version gives the same bytes every time.
Lines break at spaces only, because a word broken in the middle cannot be told from two words afterwards, and no
paragraph is divided by a page break. Each page has a header and a footer, as office documents have.

The source format, one item a line:
    = title    ~ line under the title    == part    === article    | cell | cell (a table; its first row is the head)
    anything else is a paragraph; empty lines only separate.
"""
import os
import sys

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle
from xml.sax.saxutils import escape

HERE = os.path.dirname(os.path.abspath(__file__))
FONTS = os.environ.get("NANUM_FONTS", "/usr/share/fonts/truetype/nanum")
DOCUMENTS = [  # source, target, page label
    ("src/travel_ko.txt", "docs/ko/travel.pdf", "- {} -"),
    ("src/manual_tl300_ko.txt", "docs/ko/tl300_manual.pdf", "{} 쪽"),
    ("src/overseas_travel_en.txt", "docs/en/overseas_travel.pdf", "Page {}"),
]


class WholeParagraph(Paragraph):
    """A paragraph that moves to the next page rather than being divided."""

    def split(self, width, height):
        return []


class WholeTable(Table):
    """The same for tables: all of them are much shorter than a page."""

    def split(self, width, height):
        return []


def style(name, size, bold=False, before=0.0, after=3.0, **more):
    return ParagraphStyle(name, fontName="NanumBold" if bold else "Nanum", fontSize=size, leading=size * 1.6,
                          spaceBefore=before, spaceAfter=after, **more)


def styles():
    return {
        "title": style("title", 19, True, after=4),
        "under": style("under", 9, after=10, textColor=colors.HexColor("#444444")),
        "part": style("part", 14, True, before=13, after=5, keepWithNext=1),
        "article": style("article", 11.5, True, before=7, keepWithNext=1),
        "body": style("body", 11, after=5),
        "cell": style("cell", 10, after=0),
        "head": style("head", 10, True, after=0),
    }


def table(rows, look, width):
    n_columns = max(len(r) for r in rows)
    longest = [max(len(r[c]) for r in rows if c < len(r)) for c in range(n_columns)]
    # A column gets room by its longest cell, within limits, so that long remarks do not starve short codes.
    weight = [min(max(n, 5), 30) for n in longest]
    cells = [[Paragraph(escape(t), look["head" if i == 0 else "cell"]) for t in r] for i, r in enumerate(rows)]
    made = WholeTable(cells, colWidths=[width * w / sum(weight) for w in weight])
    made.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.HexColor("#888888")),
                              ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#eeeeee")),
                              ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    return made


def story(lines, look, width):
    """Turns source lines into flowables; returns them with the title and the line under it."""
    out, rows, title, under = [], [], "", ""

    def close_table():
        if rows:
            out.extend([table(list(rows), look, width), Spacer(1, 8)])
            rows.clear()

    for number, line in enumerate(lines, 1):
        line = line.strip()
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line[1:].split("|")])
            if len(rows[-1]) != len(rows[0]):
                raise ValueError(f"line {number}: {len(rows[-1])} cells, the table has {len(rows[0])}")
            continue
        close_table()
        if line.startswith("=== "):
            out.append(WholeParagraph(escape(line[4:]), look["article"]))
        elif line.startswith("== "):
            out.append(WholeParagraph(escape(line[3:]), look["part"]))
        elif line.startswith("= "):
            title = line[2:]
            out.append(WholeParagraph(escape(title), look["title"]))
        elif line.startswith("~ "):
            under = line[2:]
            out.append(WholeParagraph(escape(under), look["under"]))
        elif line:
            out.append(WholeParagraph(escape(line), look["body"]))
    close_table()
    return out, title, under


def make(source, target, page_label):
    look, margin = styles(), 24 * mm
    with open(os.path.join(HERE, source), encoding="utf-8") as f:
        flow, title, under = story(f.read().split("\n"), look, A4[0] - 2 * margin)
    path = os.path.join(HERE, target)

    def furniture(canvas, doc):
        canvas.saveState()
        canvas.setFont("Nanum", 8)
        canvas.drawString(margin, A4[1] - 14 * mm, title)
        canvas.drawCentredString(A4[0] / 2, 12 * mm, page_label.format(doc.page))
        canvas.restoreState()

    doc = SimpleDocTemplate(path, pagesize=A4, leftMargin=margin, rightMargin=margin, topMargin=margin,
                            bottomMargin=margin, title=title, subject=under, author="Harambyeori Co., Ltd. (fictional)",
                            invariant=1)
    doc.build(flow, onFirstPage=furniture, onLaterPages=furniture)
    print(f"{target}: {doc.page} pages, {os.path.getsize(path)} bytes")


def main():
    for name, file in (("Nanum", "NanumGothic.ttf"), ("NanumBold", "NanumGothicBold.ttf")):
        path = os.path.join(FONTS, file)
        if not os.path.exists(path):
            sys.exit(f"{path} is missing: install fonts-nanum, or set NANUM_FONTS to the folder of {file}")
        pdfmetrics.registerFont(TTFont(name, path))
    for document in DOCUMENTS:
        make(*document)


if __name__ == "__main__":
    main()
