"""Texts that two tokenizers are compared on: what people write, and what only machines do."""

from __future__ import annotations

import random
from collections.abc import Iterator

WRITTEN = (
    "Hello, world! How are you today?",
    "你好，世界。我是一个语言模型，可以回答问题、写作和翻译。",
    "混排 mixed 文本：GLM-4 有 9B 参数，价格是 ¥3.50/百万 tokens。",
    "The philosophy of a gazebo: don't stop, eop sop [MASK </s",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"\t# 注释\n\n\nclass A:\n\tpass\n",
    '<html><body class="a"><s>old</s><p>新的</p></body></html>',
    '{"role": "user", "content": "\\u4f60\\n", "n": [1, 2.5e-3, null]}',
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x'; -- ok",
    "https://example.com/a?b=c&d=%E4%BD%A0#e  user@example.com",
    "0123456789 3.14159 1,000,000 2026-11-23 10:00:00 ²³ ½ ①②③ Ⅳ 一二三",
    "🙂👍🏽👩‍👩‍👧‍👦🇨🇳 ❤️ 🫠 text 🙂🙂",
    "Ünïcödé café naïve Straße Ελληνικά Русский עברית العربية ไทย हिन्दी 日本語かな 한국어",
    "𠀀𠮷 龘 㐀 \ue000 ﬁ ｆｕｌｌ　ｗｉｄｔｈ ！？",
    "e\u0301 \u200b\u200d\ufeff zero\u00a0width\u2028lines\u2029",
    " leading", "  two", "trailing ", "   ", "\n", "\n\n\n", "\t", "\r\n", " \n \n ", "a  b   c    d                e",
    "======== -------- ........ aaaaaaaaaaaaaaa 哈哈哈哈哈哈哈 000000000000",
    "\\frac{a}{b} \\sum_{i=1}^{n} x_i^2 \\leq \\infty ∑∫√≤≠±×÷",
    "[Round 1]\n\n问：你是谁？\n\n答：我是 ChatGLM。\n\n",
    "\x00\x01\x1b[31mred\x7f",
)  # fmt: skip
RANDOM = 2_000
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ",
    "0123456789 .,-+eE%$",
    " \n\t\r_=+()[]{}<>/\\|\"'`~!?@#^&*:;",
    "的一是不了人我在有他这为之大来以个中上们你好，。！？、：；“”（）《》",
    "🙂🚀👍🏽‍é\u0301ß 龘𠀀　ｆ▁…—·",
    "aa  ==00哈哈",
)


def texts(*, seed: int = 0) -> Iterator[str]:
    """The written ones, and `RANDOM` made of their characters, the same at every run."""
    yield from WRITTEN
    chance = random.Random(seed)
    for _ in range(RANDOM):
        alphabet = "".join(chance.sample(_ALPHABETS, k=chance.randint(1, 3)))
        yield "".join(chance.choices(alphabet, k=chance.randint(1, 60)))


CONVERSATION = (
    {"role": "system", "content": "You are ChatGLM, a helpful assistant.\n请用中文回答。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！有什么可以帮你？\n"},
    {"role": "user", "content": " Write `hello` in Python:\n\tprint('…') 🙂"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "\n再来一次 "},
)
