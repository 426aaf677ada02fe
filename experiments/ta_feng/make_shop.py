"""Makes up the log of a second shop, unlike Ta Feng's in its names, ids and times, as a CSV file.

    python experiments/ta_feng/make_shop.py [shop.csv]

Members buy their staples at a pace of their own, and beside them what is on offer that week and
what suits their taste. A receipt has a till, and a total and a number of lines that are known only
afterwards.
"""

import sys
from pathlib import Path

import numpy as np

MEMBERS, ARTICLES, DAYS, KINDS, STAPLES = 2_500, 900, 140, 12, 8


def lines() -> list[str]:
    rng = np.random.default_rng(7)
    kind = rng.integers(0, KINDS, ARTICLES)
    popularity = rng.permutation(np.arange(1, ARTICLES + 1) ** -0.9)
    price = rng.lognormal(1.2, 0.7, ARTICLES).round(2)
    offers = rng.choice(ARTICLES, (DAYS // 7 + 1, 15), p=popularity / popularity.sum())
    found = []
    receipt = 0
    for member in range(MEMBERS):
        taste = popularity * rng.dirichlet(np.full(KINDS, 0.3))[kind]
        taste /= taste.sum()
        staples = rng.choice(ARTICLES, STAPLES, replace=False, p=taste)
        pace, region = rng.uniform(0.1, 0.6, STAPLES), rng.integers(5)
        day = int(rng.integers(0, 30))
        while day < DAYS:
            bought = [*staples[rng.random(STAPLES) < pace]]
            bought += [*rng.choice(offers[day // 7], rng.poisson(0.7))]
            bought += [*rng.choice(ARTICLES, rng.poisson(0.8), p=taste)]
            pieces = rng.geometric(0.7, len(bought))
            total = float(price[bought] @ pieces) if bought else 0.0
            till = ("self", "staffed", "app")[rng.choice(3, p=[0.5, 0.3, 0.2])]
            moment = np.datetime64("2023-05-01T07:00") + day * 1440 + int(rng.integers(0, 780))
            written = moment.astype(object).strftime("%d.%m.%Y %H:%M")
            for article, number in zip(dict.fromkeys(bought), pieces, strict=False):
                row = (written, f"R{receipt:06d}", f"m-{member:05d}", f"region {region}")
                row += (f"a{article:04d}x", f"group {kind[article]}", number, till)
                found.append((moment, ";".join(map(str, (*row, f"{total:.2f}", len(bought))))))
            receipt += 1
            day += int(rng.geometric(0.09))
    return [row for _, row in sorted(found, key=lambda each: each[0])]


def main(output: Path) -> None:
    header = "bought_at;receipt_no;member;region;article;article_group;pieces;till;total_paid;lines"
    output.write_text("\n".join([header, *lines()]) + "\n")


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["shop.csv"]))
