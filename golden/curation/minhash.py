"""MinHash signatures as datatrove makes them, for texts on which our words must be its words.

    python minhash.py        # writes crates/curate/tests/golden/minhash.jsonl

One JSON object a line: language, hash ("xxh64", "sha1", "xxh32"), text, shingles (how many), signature (112 numbers).
"""

import json
import pathlib

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import Languages

TARGET = pathlib.Path(__file__).resolve().parents[2] / "crates/curate/tests/golden/minhash.jsonl"
HASHES = {
    "xxh64": HashConfig(precision=64, hash_fc="xxhash"),
    "sha1": HashConfig(precision=64, hash_fc="sha1"),
    "xxh32": HashConfig(precision=32, hash_fc="xxhash"),
}
ENGLISH = [
    "Five words, no fewer: here.",
    "We don't know what she's done; they've said it can't be, we'd best not ask. I'm gonna wait, you cannot!",
    "dont cant wont im ive youre theyll wouldve its were well shell hell id wed gotta thats whos y'all",
    "The file has 12.5GB (13,421,772,800 bytes), 3km of tape, 5,4 mm and 1.2.3 versions. Costs £5m, 20€ or ₩1000 - 5kg each.",
    "“Quoted” ‘single’ text — with dashes – and… ellipses. Naïve café, façade, Zürich, Ångström, İstanbul, ΣΟΦΟΣ.",
    "Line one\nline two\r\n\tline three\u00a0nbsp\u2003em space\u200bzero width\u0085next line and the end of it all.",
    "Symbols ★★★ great ☺ product® of Acme™ © 2024 → next ⇒ ⬇⬇ here 🏳️‍🌈 and 👩‍👩‍👧 stay apart, 25°C outside ½ done №5.",
    "Numbers ١٢٣ and ३४५ or １２ in other scripts, 1٫5 too; roman Ⅳ and x² stay. #hash @mention a_b c/d e\\f g|h",
    "a b c d e a b c d e a b c d e a b c d e repeated shingles do not matter to the minimum at all",
]
CHINESE = [
    "我来到北京清华大学，他来到了网易杭研大厦。",
    "小明硕士毕业于中国科学院计算所，后在日本京都大学深造；工信处女干事每月经过下属科室。",
    "今年二季度GDP同比增长6.3%，其中第三产业增加值约33.2万亿元，Linux和Python很流行。",
    "繁體中文：臺灣的電腦產業，每年產值約３兆元。混排 English words 与 numbers 12,345！",
    "黛玉方进房，只见两个人扶着一位鬓发如银的老母迎上来。黛玉知是外祖母了，正欲下拜，早被外祖母抱住，搂入怀中，“心肝儿肉”叫着大哭起来。",
]


def main():
    np.seterr(over="ignore")
    lines = []
    for language, code, texts in (
        ("english", Languages.english, ENGLISH + [" ".join(ENGLISH)]),
        ("chinese", Languages.mandarin_chinese, CHINESE + ["\n".join(CHINESE)]),
    ):
        for name, config in HASHES.items():
            step = MinhashDedupSignature("/nonexistent", MinhashConfig(hash_config=config), language=code)
            for text in texts:
                shingles = step.get_shingles(text)
                signature = [value for band in step.get_signature(shingles) for value in band] if len(shingles) else []
                row = dict(language=language, hash=name, text=text, shingles=len(shingles), signature=signature)
                lines.append(json.dumps(row, ensure_ascii=False))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
