"""Golden files of the curation filters: words as spaCy cuts them, and datatrove's verdict on cases of our own that meet
each rule from both sides.

    cargo xtask golden

Writes crates/curate/tests/golden/english_words.txt (text, tab, words with single spaces between) and verdicts.jsonl
({"chain", "text", "labels" by filter; "left" is what C4 leaves of a text that it keeps and changes}).
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import verdicts  # noqa: E402

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates/curate/tests/golden"

PROSE = (
    "The harbour lay quiet below the town and the boats that had come in with the morning tide were tied along the "
    "wall. Fishermen mended nets beside the old customs house, and children who should have been in school ran "
    "between the barrels to see the strange ship. Nobody knew where it had come from, or what it carried under the "
    "grey cloth on its deck. Some said salt. Others said that it was better not to ask."
)
ZH = (
    "清晨的港口很安静，渔民们在旧海关楼旁修补渔网，孩子们在木桶之间奔跑，想看看那艘陌生的船。"
    "没有人知道它从哪里来，也没有人知道甲板上的灰布下面盖着什么。老人说，三十年前也有过这样一艘船，它在夜里离开，"
    "再也没有回来。年轻人不信，他们笑着把绳子系在岸边的石头上，等着潮水慢慢涨起来。"
)
SENTENCES = [sentence + "." for sentence in PROSE.rstrip(".").split(". ")]


def english():
    yield from [PROSE, "", " ", "Too little to say.", "word , " * 40, "of an it " * 30, "incomprehensibilities " * 60]
    words = PROSE.split()
    for count in (45, 48, 49, 50, 51, 52, 55):
        yield " ".join(words[:count])
    for mark in ("#", "...", "…", "# ", "... "):
        for step in (3, 9, 10, 11, 12, 14):
            yield " ".join(word + (" " + mark if at % step == 0 else "") for at, word in enumerate(words))
    for bullet in ("- ", "• ", "-", "  •", "* "):
        for plain in (0, 1, 2):
            lines = [bullet + sentence for sentence in SENTENCES * 4]
            yield "\n".join(lines[plain:] + SENTENCES[:plain])
    for ends in range(5):
        yield "\n".join(s[:-1] + ("..." if at < ends else ".") for at, s in enumerate(SENTENCES))
        yield "\r\n".join(s[:-1] + ("…  " if at < ends else ".") for at, s in enumerate(SENTENCES))
    for step in (2, 3, 4, 5, 6):
        yield " ".join(word if at % step else "1234" for at, word in enumerate(words))
    yield PROSE.replace("the ", "ye ").replace("The ", "Ye ").replace("that", "which").replace("with", "by").replace(
        "and", "plus").replace("have", "hold").replace("to ", "till ").replace("be ", "being ").replace("of ", "off ")
    yield "one\n\ntwo\n\none\n\none"
    for copies in range(2, 8):
        yield "\n\n".join([SENTENCES[0]] * copies + SENTENCES[1:])
        yield "\n".join([SENTENCES[4]] * copies + SENTENCES[:4])
        yield "\n".join(["Short."] * copies + SENTENCES)
        yield " ".join(["sea salt"] * copies + words[:20])
        yield " ".join(["old grey ship"] * copies + words[:30])
        yield " ".join(["it was not here"] * copies + words[:35])
    numbered = [f"word{number}" for number in range(100)]
    for n in range(5, 45, 3):
        yield " ".join(numbered + numbered[10:10 + n])
        yield " ".join(numbered[:60] + numbered[10:10 + n] + numbered[30:30 + n])
    for line in (
        "no end mark here", "an ellipsis...", "Two words.", "Please enable JavaScript now.", "We use cookies here.",
        "Read our Privacy Policy and terms of use.", "A lorem ipsum line here.", "LOREM IPSUM it was then.",
        "A { bracket } stands here.", "{", "A word of " + "a" * 1001 + " letters.", "Known since[1] long[23][edit].",
        "  It stands [citation needed] aside. ", "He said \"Go now!\"", "Was it 'so'", "Mr. Smith paid $5.30. Then he left.",
    ):
        yield PROSE + "\n" + line
        yield line + "\n" + "\n".join(SENTENCES[:3])
        yield "\n".join([line] * 3 + SENTENCES)
    for count in range(1, 8):
        yield "\n".join((SENTENCES * 2)[:count])
        yield " ".join((SENTENCES * 2)[:count])
    for width in (5, 20, 29, 30, 31, 40):
        yield "\n".join("a b " * 20 + sentence[:width] for sentence in SENTENCES)
        yield "\n".join(sentence[:width] + "." for sentence in SENTENCES * 2)
    for gaps in range(1, 12):
        yield ("\n" * gaps).join(SENTENCES)
        yield "\n".join(SENTENCES[:1] + ["- item"] * gaps)


def chinese():
    yield from [ZH, "", "太短了。", ZH[:60] + "。", "广告联系电话" * 40, ZH.replace("。", "，"), ZH.replace("。", "。\n")]
    for count in (60, 70, 75, 80, 90, 100, 120):
        yield ZH[:count]
        yield ZH[:count] + "。"
    for copies in range(2, 6):
        yield (ZH[:40] + "。\n") * copies + ZH
        yield "我们去海边。" * copies + ZH
    for step in (2, 3, 4, 5):
        yield "".join(char + ("12 " if at % step == 0 else "") for at, char in enumerate(ZH))
    yield ZH.replace("的", "").replace("有", "").replace("在", "").replace("人", "").replace("也", "")
    yield "\n".join(ZH.split("，"))
    yield "\n".join(ZH.split("。"))


def english_words():
    """Keeps the texts of the file and cuts them anew."""
    import spacy

    nlp = spacy.blank("en")
    path = FOLDER / "english_words.txt"
    texts = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [text + "\t" + " ".join(word.text for word in nlp(text)) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    english_words()
    out, labels = [], set()
    for chain, texts in [("crawl-en", english()), ("crawl-zh", chinese())]:
        filters = verdicts.chain(chain)
        for text in dict.fromkeys(texts):
            case = {"chain": chain, "text": text, "labels": {}}
            for name, one in filters.items():
                label, left = verdicts.judge(one, text)
                # Divisions by zero are datatrove's, on texts of white space.
                if label != "division by zero":
                    case["labels"][name] = label
                    labels.add(label)
                    if label == "keep" and left != text:
                        case["left"] = left
            out.append(json.dumps(case, ensure_ascii=False))
    (FOLDER / "verdicts.jsonl").write_text("\n".join(out) + "\n", encoding="utf-8")
    print(len(out), "cases,", len(labels), "labels:", *sorted(labels))


if __name__ == "__main__":
    main()
