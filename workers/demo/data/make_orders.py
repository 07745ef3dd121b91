#!/usr/bin/env python3
"""Writes orders.jsonl: one `email.order_confirmation` payload a line, the same ones at every run.

The people and the shop are invented; all addresses are in example.com, .org and .net, which belong to nobody.
Usage: python3 make_orders.py > orders.jsonl
"""

import json
import random
import unicodedata

COUNT = 240

# name, mail name, currency
PEOPLE = [
    ("Zoë O'Brien", "zoe.obrien", "EUR"), ("Siân ap Rhys", "sian", "GBP"), ("José Núñez", "jose.nunez", "EUR"),
    ("佐藤 陽菜", "hina.sato", "JPY"), ("田中 太郎", "taro.tanaka", "JPY"), ("김민준", "minjun.kim", "KRW"),
    ("王小明", "xiaoming.wang", "CNY"), ("Łukasz Wójcik", "lukasz", "PLN"), ("Søren Ærø", "soren", "DKK"),
    ("Åsa Öberg", "asa.oberg", "SEK"), ("D'Arcy \"Bo\" Fitzgerald", "darcy+orders", "USD"),
    ("Nguyễn Thị Hương", "huong.nguyen", "VND"), ("Βασιλική Παππά", "vasiliki", "EUR"), ("Ольга Иванова", "olga", "EUR"),
    ("فاطمة العلي", "fatima", "KWD"), ("يوسف أحمد", "yusuf", "BHD"), ("רות כהן", "ruth.cohen", "ILS"),
    ("Mary-Jane 🌻 Whitlow", "mary-jane", "USD"), ("Jürgen Groß & Söhne", "buero", "EUR"), ("François L'Hôte", "f.lhote", "CHF"),
    ("Ayşe Yılmaz", "ayse", "TRY"), ("Çağrı <Cago> Demir", "cagri", "TRY"), ("Tomáš Dvořák", "tomas", "CZK"),
    ("Ngozi Okafor, Jr.", "ngozi", "USD"), ("Þórunn Jónsdóttir", "thorunn", "ISK"), ("Ana María de la Cruz", "anamaria", "MXN"),
    ("प्रिया शर्मा", "priya", "INR"), ("สมชาย ใจดี", "somchai", "THB"), ("Slimane Ben Youssef", "slimane", "TND"),
    ("Liam McAllister", "liam", "AUD"),
]

# sku, description, price in euro cents
ARTICLES = [
    ("TEA-0101", "Sencha green tea, 100 g", 890), ("TEA-0114", "Earl Grey \"Old Harbour\", 250 g", 1290),
    ("TEA-0120", "Rooibos & vanilla, 100 g", 690), ("CUP-0007", "湯呑み – Japanese tea cup", 2400),
    ("CUP-0012", "Café au lait bowl, crème", 1650), ("POT-0003", "Cast iron teapot <0.8 l>", 5900),
    ("POT-0009", "Glass teapot with strainer, 1.2 l", 3450), ("HON-0002", "Chestnut honey, 500 g", 1120),
    ("CHO-0021", "Dark chocolate 85 %, 5 × 100 g", 1475), ("BIS-0005", "Grandma's shortbread 🍪", 590),
    ("SPN-0001", "Silver-plated teaspoon (set of 6)", 4200), ("BOX-0030", "Gift box \"Żółty\"", 350),
    ("KET-0002", "Gooseneck kettle 1 l – 230 V", 8990), ("CRD-0001", "Greeting card: Merci d'être là", 280),
]

# smallest units of the currency for one euro cent, in hundredths; an invented rate
RATES = {
    "EUR": 100, "GBP": 85, "USD": 108, "JPY": 160, "KRW": 1450, "CNY": 780, "PLN": 430, "DKK": 745, "SEK": 1150,
    "VND": 27000, "KWD": 330, "BHD": 410, "ILS": 400, "CHF": 95, "TRY": 3700, "CZK": 2500, "ISK": 149, "MXN": 2000,
    "INR": 9000, "THB": 3900, "TND": 3360, "AUD": 165,
}
# tax on top of the lines, per thousand; the others' prices contain it
TAX = {"USD": 82, "JPY": 100, "INR": 50, "AUD": 100}


def amount(euro_cents, currency):
    return max(1, euro_cents * RATES[currency] // 100)


def order(number, rng):
    name, mailbox, currency = PEOPLE[number % len(PEOPLE)]
    lines = [
        {"sku": sku, "description": description, "quantity": rng.choice((1, 1, 1, 2, 2, 3, 6, 12)),
         "unit_price_cents": amount(price, currency)}
        for sku, description, price in rng.sample(ARTICLES, rng.randint(1, 5))
    ]
    goods = sum(line["quantity"] * line["unit_price_cents"] for line in lines)
    if number % 9 == 4:
        discount = goods // 10
        lines.append({"sku": "VOUCHER", "description": "Voucher: 10 % off", "quantity": 1, "unit_price_cents": -discount})
        goods -= discount
    total = goods
    made = {
        "id": f"T-2026-{number + 1:05}",
        "customer": {"name": unicodedata.normalize("NFC", name),
                     "email": f"{mailbox}@example.{('com', 'org', 'net')[number // len(PEOPLE) % 3]}"},
        "lines": lines,
        "currency": currency,
    }
    if goods < amount(7500, currency):
        made["shipping_cents"] = amount(495, currency)
        total += made["shipping_cents"]
    if currency in TAX:
        made["tax_cents"] = goods * TAX[currency] // 1000
        total += made["tax_cents"]
    made["total_cents"] = total
    return made


rng = random.Random(20261121)
for number in range(COUNT):
    print(json.dumps(order(number, rng), ensure_ascii=False))
