#!/usr/bin/env python3
"""Writes shop_train.tsv and shop_test.tsv: short reviews of a made-up shop, no phrase of one file in the other.

usage: make_reviews.py      (in this folder; the same files every time)
"""
import itertools
import random

things = ["커피포트", "등산 가방", "블루투스 이어폰", "아기 의자", "전기장판", "운동화", "책상 조명", "선풍기", "보온병", "우산", "프라이팬", "무선 청소기"]
openings = ["", "선물로 샀는데 ", "세일할 때 주문했는데 ", "한 달쯤 써 보니 ", "급하게 필요해서 샀는데 ", "사진만 보고 골랐는데 "]
good = {
    "train": ["생각보다 훨씬 튼튼하네요", "식구들이 서로 쓰려고 합니다", "값이 아깝지 않아요", "디자인도 예쁘고 손에 착 감깁니다", "하루 만에 도착해서 놀랐어요", "몇 번을 써도 처음 그대로예요",
              "친구에게도 알려 줬습니다", "설명서가 쉬워서 바로 썼어요", "소리가 조용해서 좋습니다", "마감이 깔끔합니다", "하나 더 주문했어요", "고객센터가 친절하게 도와줬어요"],
    "test": ["기대한 것보다 마음에 들어요", "매일 잘 쓰고 있습니다", "부모님이 무척 기뻐하셨어요", "가벼워서 들고 다니기 편해요"],
}
bad = {
    "train": ["이틀 만에 고장 났어요", "광고와 너무 다릅니다", "이상한 냄새가 빠지지 않아요", "돈이 아까워서 속상합니다", "반품하려는데 전화를 안 받네요", "포장이 뜯긴 채로 왔습니다",
              "너무 시끄러워서 못 쓰겠어요", "바느질이 벌써 풀렸어요", "색이 사진과 전혀 달라요", "부품이 하나 빠져 있었습니다", "무겁고 불편해서 창고에 넣었어요", "다시는 여기서 사지 않을 겁니다"],
    "test": ["처음부터 작동하지 않았어요", "생각보다 약해서 금방 부러졌습니다", "배송이 열흘이나 걸렸어요", "환불도 안 해 준다고 합니다"],
}
for part, n in (("train", 240), ("test", 80)):
    rng = random.Random(part)
    rows = []
    for label, endings in (("긍정", good[part]), ("부정", bad[part])):
        every = [f"{o}{t} {e}." for o, t, e in itertools.product(openings, things, endings)]
        rows += [(text, label) for text in rng.sample(every, n // 2)]
    rng.shuffle(rows)
    with open(f"shop_{part}.tsv", "w", encoding="utf-8") as f:
        f.write("text\tlabel\n")
        for text, label in rows:
            f.write(f"{text}\t{label}\n")
